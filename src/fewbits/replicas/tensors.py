"""ReplicaTensors: what the replicas of a model share of it, as vectors on the CPU."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from isal.isal_zlib import crc32
from torch import Tensor, nn

from fewbits.codecs.flat_view import pieces
from fewbits.errors import LocalError, WireError
from fewbits.factor.derived import make_leaves, refresh_derived
from fewbits.factor.names import travelling_buffers
from fewbits.learn.shared_values import BUFFER
from fewbits.learn.unit_vectors import unit_vectors
from fewbits.spec import FLOATS, Spec, TreeSpec


class ReplicaTensors:
    """The trainable parameters of a module (a tied one once), its saved buffers, and what stays as it is.

    Parameters and finite float buffers travel. Other saved buffers, of integers and booleans, are rank 0's on every
    rank. Frozen parameters stay, and so do buffers that are not saved, and float buffers with infinite values such as
    causal masks. All that travels is float32 here, or float64 where the module has float64. Any device will do.

    Raises:
        LocalError: no parameter is trainable; or one is sharded, sparse, without values, or of other numbers.
    """

    def __init__(self, module: nn.Module) -> None:
        if not isinstance(module, nn.Module):
            raise LocalError(f"the model must be a torch.nn.Module; got {type(module).__name__}")
        make_leaves(module)
        self.module, self._units = module, unit_vectors(module)
        self.parameters: dict[str, Tensor] = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise LocalError("the model has no trainable parameter, so nothing would travel")
        for name, tensor in self.parameters.items():
            _check_plain(name, tensor)
        buffers = travelling_buffers(module)
        self.shared = self.parameters | {BUFFER + name: x for name, x in buffers.items()}
        saved = module.state_dict(keep_vars=True).keys()
        self._whole = {n: x for n, x in module.named_buffers() if n in saved and not x.is_floating_point()}
        self._frozen = {name: p for name, p in module.named_parameters() if not p.requires_grad}
        wide = any(x.dtype == torch.float64 for x in self.shared.values())
        self.dtype = torch.float64 if wide else torch.float32

    def spec(self, names: Iterable[str]) -> TreeSpec:
        """Names and shapes of what travels, as it travels."""
        dtype = str(self.dtype).removeprefix("torch.")
        return TreeSpec(tuple((name, Spec(tuple(self.shared[name].shape), dtype)) for name in names))

    def lines(self) -> list[str]:
        """The model as texts, one for each tensor, for a comparison with another rank's."""
        shown = {**self.shared, **self._whole, **{f"frozen {name}": x for name, x in self._frozen.items()}}
        return [f"{name}, {str(x.dtype).removeprefix('torch.')} {list(x.shape)}" for name, x in shown.items()]

    def read(self, names: Iterable[str]) -> Tensor:
        """The values of some of what travels, end to end, in fresh memory.  # (numel,)"""
        chosen = {name: self.shared[name] for name in names}
        out = torch.empty(sum(x.numel() for x in chosen.values()), dtype=self.dtype)
        for part, tensor in zip(pieces(out, chosen).values(), chosen.values(), strict=True):
            part.copy_(tensor.detach())
        return out

    def difference(self, start: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """What training changed, start - now, in fresh memory; `start` is as the module's own types hold it."""
        now = self.read(names)
        for name, (part, begin) in self._beside(now, start, names).items():
            kind = self.shared[name].dtype
            torch.sub(begin if kind == self.dtype else begin.to(kind).to(self.dtype), part, out=part)
        return pieces(now, {name: self.shared[name] for name in names})

    def _beside(self, a: Tensor, b: Tensor, names: Iterable[str]) -> dict[str, tuple[Tensor, Tensor]]:
        like = {name: self.shared[name] for name in names}
        return {name: (x, y) for (name, x), y in zip(pieces(a, like).items(), pieces(b, like).values(), strict=True)}

    @torch.no_grad()
    def write(self, values: Tensor, names: Iterable[str]) -> None:
        """Put values that lie end to end into the module."""
        for name, part in pieces(values, {name: self.shared[name] for name in names}).items():
            self.shared[name].copy_(part)

    def refresh(self) -> None:
        """Compute what the module derives from its parameters."""
        for unit in self._units:
            unit.refresh()
        refresh_derived(self.module)

    def whole(self) -> bytes:
        """The buffers that travel as they are."""
        return b"".join(_bytes(x) for x in self._whole.values())

    @property
    def whole_bytes(self) -> int:
        """Length of `whole`."""
        return sum(x.nbytes for x in self._whole.values())

    @torch.no_grad()
    def write_whole(self, data: bytes | memoryview) -> None:
        """Take over buffers as `whole` gave them; WireError for another length."""
        if len(data) != self.whole_bytes:
            raise WireError(f"the buffers of integers take {self.whole_bytes} bytes; got {len(data)}")
        at = 0
        for x in self._whole.values():
            part = torch.frombuffer(bytearray(data[at : at + x.nbytes]), dtype=torch.uint8) if x.nbytes else x
            x.copy_(part.view(x.dtype).reshape(x.shape))
            at += x.nbytes

    def frozen_digest(self) -> int:
        """A checksum of the frozen parameters."""
        digest = 0
        for x in self._frozen.values():
            digest = crc32(_bytes(x), digest)
        return digest


def fragments_of(tensors: ReplicaTensors, count: int) -> list[tuple[str, ...]]:
    """The names of what travels in `count` parts of about equal size, in the module's order; buffers in the last.

    >>> fragments_of(ReplicaTensors(nn.Sequential(nn.Linear(9, 2), nn.Linear(2, 9))), 2)
    [('0.weight', '0.bias'), ('1.weight', '1.bias')]

    Raises:
        LocalError: there are fewer parameters than parts.
    """
    sizes = {name: p.numel() for name, p in tensors.parameters.items()}
    if count > len(sizes):
        raise LocalError(f"OuterStep: fragments={count}, but the model has only {len(sizes)} trainable parameters")
    total, before, parts = sum(sizes.values()), 0, [[] for _ in range(count)]
    left = len(sizes)
    which = 0
    for name, size in sizes.items():
        middle = (before + size / 2) * count / max(total, 1)
        if parts[which] and which + 1 < count and (middle >= which + 1 or left <= count - which - 1):
            which += 1
        parts[which].append(name)
        before, left = before + size, left - 1
    parts[-1].extend(name for name in tensors.shared if name not in sizes)
    return [tuple(part) for part in parts]


def digest_of(vector: Tensor, beside: bytes = b"") -> int:
    """A checksum of a vector on the CPU, and of bytes beside it."""
    return crc32(beside, crc32(vector.numpy().data))


def _check_plain(name: str, tensor: Tensor) -> None:
    if hasattr(tensor, "device_mesh"):
        raise LocalError(f"{name} is sharded over several devices (DTensor); every rank must have the whole parameter")
    if tensor.layout != torch.strided or tensor.is_meta:
        raise LocalError(f"{name} must hold all of its numbers; got a tensor of {tensor.layout} on {tensor.device}")
    if str(tensor.dtype).removeprefix("torch.") not in FLOATS:
        raise LocalError(f"{name} must be of floats ({', '.join(FLOATS)}); got {tensor.dtype}")


def _bytes(x: Tensor) -> bytes:
    return x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
