"""papers/intrinsic/gpt2.py: GPT-2 small's shapes, and messages of the length that the paper's ratios imply."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest

from fewbits.learn.intrinsic_space import IntrinsicSpace
from fewbits.wire.frame import HEADER_BYTES

PATH = Path(__file__).parents[1] / "papers" / "intrinsic" / "gpt2.py"
SPEC = importlib.util.spec_from_file_location("gpt2", PATH)
assert SPEC is not None and SPEC.loader is not None
gpt2 = importlib.util.module_from_spec(SPEC)
sys.modules["gpt2"] = gpt2  # dataclasses look their module up
SPEC.loader.exec_module(gpt2)


def test_gpt2_small_has_its_parameters():
    assert sum(math.prod(shape) for _, shape in gpt2.shapes()) == 124_439_808


@pytest.mark.parametrize(("mode", "count"), [("static", 1), ("time-varying", 1), ("k-subspace", 3)])
@pytest.mark.parametrize("away", [0, 1, 4])
def test_a_client_away_m_epochs_gets_m_finals_and_what_is_current(mode, count, away):
    """(m + 1) d numbers for each of the matrices; in a static subspace d, however long it was away."""
    space = IntrinsicSpace(64, mode, k=3, epoch=10)
    frames = 1 if mode == "static" else away + 1
    sent = len(gpt2.bundle(space, 10_000, away))
    assert 0 < sent - frames * (HEADER_BYTES + 4 * 64 * count) <= 1 + 2 * frames, "lengths and their count"
