"""Codecs and coders that each make one mistake, for the laws to find."""

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fewbits.codecs import Delta, ErrorFeedback, Flat, Raw, TopK, Transform, chain
from fewbits.coders import Fixed
from fewbits.errors import LocalError, WireError
from fewbits.spec import Contract, Spec

NUMBERS = itertools.count()


@dataclass(frozen=True)
class Centre(Transform):
    """Takes the mean out: obeys every law, until something of it is replaced."""

    wire_name = "test.centre"

    def split(self, x, spec, keys):
        mean = float(x.double().mean()) if spec.numel else 0.0
        return mean, x - mean

    def join(self, side, carrier, spec):
        return carrier.to(spec.torch_dtype) + side

    def carrier(self, side, spec):
        return spec

    def write(self, side, spec, out):
        out.write_bytes(np.array([side], "<f8"))

    def read(self, spec, src, common):
        return float(src.read_bytes(8).view("<f8")[0])

    def contract(self, spec):
        return Contract(payload_bits=64)

    @classmethod
    def examples(cls):
        return [cls()]


@dataclass(frozen=True)
class Levels(Centre):
    """The nearest of 15 levels, with the largest magnitude as the scale."""

    wire_name = "test.levels"
    quantises = True

    def split(self, x, spec, keys):
        scale = float(x.double().abs().max()) if spec.numel else 0.0
        return scale, (x.double() / (scale or 1.0) * 7).round().to(torch.int8)

    def join(self, side, carrier, spec):
        return (carrier.double() * side / 7).to(spec.torch_dtype)

    def carrier(self, side, spec):
        return Spec((spec.numel,), "int8", -7, 7)


@dataclass(frozen=True)
class Whole(Centre):
    """All numbers as the side, nothing for the coder."""

    wire_name = "test.whole"

    def split(self, x, spec, keys):
        return x.float().clone(), x[:0]

    def join(self, side, carrier, spec):
        return side.to(spec.torch_dtype)

    def carrier(self, side, spec):
        return replace(spec, shape=(0,), segments=())

    def write(self, side, spec, out):
        out.write_bytes(side.numpy())

    def read(self, spec, src, common):
        return torch.from_numpy(src.read_bytes(4 * spec.numel).copy().view(np.float32))

    def contract(self, spec):
        return Contract(payload_bits=32 * spec.numel)


def variant(of: type, **changes: Any) -> Any:
    """An instance of a subclass with another wire name, in which some attributes are replaced."""
    name = f"{of.__name__}{next(NUMBERS)}"
    names = {"wire_name": f"test.{name.lower()}", "__module__": __name__} | changes
    cls = dataclass(frozen=True, repr="__repr__" not in changes)(type(name, (of,), names))
    return cls(chain(Raw())) if issubclass(of, Delta | ErrorFeedback | Flat) else cls()


def counted(self, message, spec, state):
    """Delta's decode with the number of calls in the state: no function of what was on the wire."""
    calls = next(NUMBERS)
    x, (h, inner) = Delta.decode(self, message, spec, state)
    return x, (h + calls, inner)


def remembers_in_place(self, x, spec, state, memory, keys):
    message, after = ErrorFeedback.encode(self, x, spec, state, memory, keys)
    memory[0].copy_(after[0] + 1)
    return message, memory


def keeps_its_input(self, x, spec, state, memory, keys):
    message, after = ErrorFeedback.encode(self, x + memory[0], spec, state, memory, keys)
    return message, (x, after[1])


def centres_in_place(self, x, spec, keys):
    mean = float(x.double().mean()) if spec.numel else 0.0
    x -= mean
    return mean, x.clone()


def pads_what_is_missing(self, spec, src, common):
    data = bytes(src.rest()[: 4 * spec.numel])
    src.skip(8 * len(data))
    return torch.from_numpy(np.frombuffer(data.ljust(4 * spec.numel, b"\0"), np.float32).copy())


def skips_what_is_left(self, spec, src, common):
    found = Whole.read(self, spec, src, common)
    src.skip(src.remaining)
    return found


def trusts_a_length(self, spec, src, common):
    length = src.read(24)
    numbers = np.zeros(length, np.float32)  # before anybody looks whether so many came
    if length != spec.numel:
        raise WireError(f"test: {len(numbers)} numbers of {spec.numel}")
    return Whole.read(self, spec, src, common)


def trusts_a_length_in_torch(self, spec, src, common):
    if torch.zeros(src.read(24)).numel() != spec.numel:
        raise WireError("test: another length")
    return Whole.read(self, spec, src, common)


def writes_a_length(self, side, spec, out):
    out.write(spec.numel, 24)
    Whole.write(self, side, spec, out)


def points_at_the_largest(self, x, spec, keys):
    return (int(x.abs().argmax()) if spec.numel else 0), x


def trusts_a_position(self, side, carrier, spec):
    return carrier.index_add(0, torch.tensor([side][: spec.numel]), torch.zeros(1, dtype=carrier.dtype)[: spec.numel])


def reads_a_position(self, spec, src, common):
    return src.read(16)


def writes_a_position(self, side, spec, out):
    out.write(side, 16)


def looks_at_the_layout(self, x, spec, state, memory, keys):
    tensors = x.values() if isinstance(x, dict) else [x]
    factor = 1 if all(t.is_contiguous() for t in tensors) else 2
    doubled = {n: t * factor for n, t in x.items()} if isinstance(x, dict) else x * factor
    return Flat.encode(self, doubled, spec, state, memory, keys)


def largest_first(self, x, spec, keys):
    support = x.abs().argsort(descending=True, stable=True)[: -(-spec.numel // 4)]
    return support, x[support]


@dataclass(frozen=True)
class Heaviest(TopK):
    """A TopK whose support is in order of magnitude."""

    wire_name = "test.heaviest"
    split = largest_first


def only_float32(self, x, spec, keys):
    if spec.dtype != "float32":
        raise ValueError("only float32")
    return Centre.split(self, x, spec, keys)


def refuses_zeros(self, x, spec, keys):
    if spec.numel and not bool(x.any()):
        raise LocalError("test: all zero")
    return Centre.split(self, x, spec, keys)


def signs(self, x, spec, keys):
    scale = float(x.double().abs().max()) if spec.numel else 0.0
    return scale, torch.where(x < 0, -1, 1).to(torch.int8)


def one_level(self, side, carrier, spec):
    return (carrier.double() * side).to(spec.torch_dtype)


def mean_scale(self, x, spec, keys):
    scale, levels = Levels.split(self, x, spec, keys)
    return (float(x.double().abs().mean()) if scale else 0.0), levels


@dataclass(frozen=True)
class Growing(Centre):
    """Refuses numbers beyond ten, which only what is remembered reaches."""

    wire_name = "test.growing"

    def split(self, x, spec, keys):
        if spec.numel and 12 < float(x.abs().max()) < 1e6:
            raise LocalError("test: beyond 12")
        return 0.0, (x * 0.1).round()


@dataclass(frozen=True)
class Counted(Fixed):
    """A Fixed that obeys every law of coders, until something of it is replaced."""

    wire_name = "test.counted"


def coder(**changes: Any) -> Any:
    """A coder of a subclass of Counted in which some attributes are replaced."""
    names = {"wire_name": f"test.coder{next(NUMBERS)}", "__module__": __name__} | changes
    return dataclass(frozen=True, repr="__repr__" not in changes)(type(f"Coder{next(NUMBERS)}", (Counted,), names))()


@dataclass(frozen=True)
class Bytes(Counted):
    """Whole bytes, of which the reader trusts each."""

    wire_name = "test.bytes"

    def write(self, values, spec, out):
        out.write_bytes(values.astype(spec.dtype))

    def read(self, spec, src):
        return src.read_bytes(spec.numel * spec.bits // 8).view(spec.dtype).copy()

    def payload_bits(self, spec):
        return None


@dataclass(frozen=True)
class Lanes(Counted):
    """A coder that takes True for 1."""

    wire_name = "test.lanes"
    lanes: int = 4


def blocks(self, spec, src):
    blocks = np.zeros((spec.numel + 1, 64), np.uint8)  # 64 bytes a level
    return Fixed.read(self, spec, src) + blocks[0, 0].astype(spec.dtype)


def forgets_long_ones(self, spec, src):
    values = Fixed.read(self, spec, src).copy()
    values[5000:] = 0
    return values


def reads_one_bit_more(self, spec, src):
    values = Fixed.read(self, spec, src)
    src.read(1)
    return values


def pads_levels(self, spec, src):
    missing = max(0, Fixed.payload_bits(self, spec) - src.remaining)
    if missing:
        src.skip(src.remaining)
        return np.full(spec.numel, spec.low, spec.dtype)
    return Fixed.read(self, spec, src)


def unchecked(self, values, spec, out):
    wrapped = (values.astype(np.int64).reshape(-1) - (spec.low or 0)) % max(1, spec.levels if spec.integer else 1)
    out.write_bytes(wrapped.astype(np.uint8))


@dataclass(frozen=True)
class Amount(Centre):
    """A Centre that takes True for 1."""

    wire_name = "test.amount"
    keep: float = 1.0
