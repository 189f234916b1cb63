"""What the laws are tried on: every codec of the package, values to send, and two ends to send them with."""

import hashlib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fewbits import codecs
from fewbits.codecs import Codec, Transform, chain
from fewbits.codecs.base import raw_bits
from fewbits.coders import Rans
from fewbits.links import Receiver, Sender
from fewbits.links.finite import named
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.wire import Frame

SHAPES = {"weight": (5, 7), "bias": (5,), "gain": ()}  # 41 numbers, a scalar among them
PRIVATE, COMMON = Key(1), Key(2)


def classes() -> list[type]:
    """Every Transform and Codec of the package that could be built, were it not for a missing `examples`."""
    found = []
    for info in pkgutil.walk_packages(codecs.__path__, "fewbits.codecs."):
        module = importlib.import_module(info.name)
        for _, cls in inspect.getmembers(module, inspect.isclass):
            own = cls.__module__ == module.__name__ and issubclass(cls, Transform | Codec)
            if own and not getattr(cls, "__abstractmethods__", frozenset()) - {"examples"}:
                found.append(cls)
    return found


def as_codecs(example: Transform | Codec) -> list[Codec]:
    """A codec as it is; a transform at the end of a chain, once more with an entropy coder if it gives levels."""
    if isinstance(example, Codec):
        return [example]
    return [chain(example), *([chain(example, Rans())] if example.quantises else [])]


def every_codec() -> list[Codec]:
    """All examples, each once."""
    whole = [cls for cls in classes() if not getattr(cls, "__abstractmethods__", frozenset())]
    found = [codec for cls in whole for example in cls.examples() for codec in as_codecs(example)]
    return list({repr(codec): codec for codec in found}.values())


CODECS = every_codec()
LAWS: list[Callable[[Codec], None]] = []


def law(function: Callable[[Codec], None]) -> Callable[[Codec], None]:
    """A test that holds for every codec; also kept in LAWS, for codecs that are not of the package."""
    LAWS.append(function)
    return pytest.mark.parametrize("codec", CODECS, ids=[repr(codec).replace(" ", "") for codec in CODECS])(function)


def laws() -> list[Callable[[Codec], None]]:
    """All laws, each a function of one codec that raises when the codec breaks it."""
    for module in ("test_every_codec", "test_every_promise", "test_every_hostile_frame"):
        importlib.import_module(module)
    return LAWS


def vector(key: Key, n: int) -> np.ndarray:
    """n numbers that look normal, the same on every machine: sums of four uniforms.  # (n,) float32"""
    return key.uniform(4 * n).reshape(4, n).sum(0, dtype=np.float32) * np.float32(1.7) - np.float32(3.4)


def tree(x: np.ndarray, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """41 numbers as named tensors."""
    pieces = np.split(x, np.cumsum([int(np.prod(shape)) for shape in SHAPES.values()])[:-1])
    return {
        name: torch.from_numpy(p.copy()).reshape(s).to(dtype)
        for (name, s), p in zip(SHAPES.items(), pieces, strict=True)
    }


def stream(rounds: int, seed: int = 7, dtype: torch.dtype = torch.float32) -> Iterator[dict[str, torch.Tensor]]:
    """Updates that point roughly the same way, so that look-back recycles some of them and not others."""
    base = vector(Key(seed).fold("base"), 41)
    for t in range(rounds):
        yield tree(base + np.float32(t % 4) * np.float32(0.6) * vector(Key(seed).fold(t), 41), dtype)


TREE = Spec.of(next(stream(1)))


def ends(codec: Codec, spec: Any = TREE, private: Key = PRIVATE) -> tuple[Sender, Receiver]:
    """The two ends of a fresh link."""
    return Sender(codec, spec, private, COMMON), Receiver(codec, spec, COMMON)


def deliver(sender: Sender, receiver: Receiver, x: Any) -> tuple[bytes, Any]:
    """One frame over a perfect wire: (the frame, the value that came out)."""
    frame = sender.send(x)
    value = receiver.receive(frame)
    sender.commit()
    return frame, value


def run(codec: Codec, xs: Sequence[Any], spec: Any = TREE) -> tuple[list[bytes], list[Any], Sender, Receiver]:
    """All values over a perfect wire: frames, values, and the two ends after."""
    sender, receiver = ends(codec, spec)
    pairs = [deliver(sender, receiver, x) for x in xs]
    return [frame for frame, _ in pairs], [value for _, value in pairs], sender, receiver


def fingerprint(value: Any) -> str:
    """A digest of a value's names, shapes and bits."""
    digest = hashlib.blake2b(digest_size=8)
    for name, x in named(value):
        digest.update(f"{name} {tuple(x.shape)} {x.dtype} ".encode())
        digest.update(raw_bits(x.contiguous().reshape(-1)).numpy().tobytes())
    return digest.hexdigest()


def payload_of(frame: bytes) -> bytes:
    """What follows the header."""
    return bytes(frame[16:])


def restamp(frame: bytes, payload: bytes | None = None, **header: Any) -> bytes:
    """The frame with another payload or header fields, and the checksum that goes with them."""
    parsed = Frame.parse(frame)
    return bytes(Frame(replace(parsed.header, **header), parsed.payload if payload is None else payload))
