"""Compile the kernels that most tests use, by two processes, before the workers of pytest start; they would each do it.

    python tests/warm.py

With kernels in the cache it takes a few seconds.
"""

from __future__ import annotations

import os
import sys

import torch

from every_codec import CODECS
from fewbits.codecs import as_lift
from fewbits.errors import LocalError
from fewbits.federated.compile_kernels import compile_lift
from fewbits.spec import Spec, TreeSpec

SPEC = TreeSpec((("w", Spec((40, 50))), ("b", Spec((50,)))))


def compile_share(first: int) -> None:
    """Send frames of every second codec."""
    torch.set_num_threads(1)
    for codec in CODECS[first::2]:
        try:
            compile_lift(as_lift(codec, "warm"), SPEC)
        except LocalError:
            continue  # it does not fit these shapes


def main() -> int:
    other = os.fork()
    compile_share(bool(other))
    if not other:
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(other, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
