"""ReplicaTensors: what the replicas of a model share of it, as vectors on the CPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from isal.isal_zlib import crc32
from torch import Tensor, nn

from fewbits.codecs import large
from fewbits.codecs.flat_view import pieces
from fewbits.errors import LocalError, WireError
from fewbits.factor.derived import make_leaves, refresh_derived
from fewbits.factor.names import travelling_buffers
from fewbits.learn.shared_values import BUFFER
from fewbits.learn.unit_vectors import unit_vectors
from fewbits.links.finite import all_finite
from fewbits.replicas.module_tensors import ModuleTensors, changes
from fewbits.spec import Spec, TreeSpec


class ReplicaTensors:
    """The trainable parameters of a module (a tied one once), its saved buffers, and what stays as it is.

    Parameters and finite float buffers travel. Other saved buffers, of integers and booleans, are rank 0's on every
    rank. Frozen parameters stay, and so do buffers that are not saved, and float buffers with infinite values such as
    causal masks. All that travels is float32 here, or float64 where the module has float64. Any device will do.

    Names, types and shapes are those of the start. The tensors themselves are looked up by name whenever they are
    used, since a program may put others in their places: `load_state_dict(assign=True)`, `.to()`, a forward pass that
    assigns a buffer.

    Raises:
        LocalError: no parameter is trainable; one is sharded, sparse, without values, or of other numbers; a tensor
            cannot be written to, as one of `expand` or `torch.inference_mode`; or, later, the tensors are not those of
            the start. The text has both descriptions.
    """

    def __init__(self, module: nn.Module) -> None:
        if not isinstance(module, nn.Module):
            raise LocalError(f"the model must be a torch.nn.Module; got {type(module).__name__}")
        make_leaves(module)
        self.module, self._units = module, unit_vectors(module)
        first, finite = ModuleTensors.of(module), travelling_buffers(module)
        self._stay = [name for name in first.floats if name not in finite]
        for name in self._stay:
            del first.floats[name]
        first.check_writable()
        self._start = first.described()
        self.like = {name: torch.empty_like(x, device="meta") for name, x in _shared(first).items()}
        self.trained, self._whole = tuple(first.trained), tuple(first.whole)
        if not any(x.numel() for x in first.trained.values()):
            raise LocalError("the model has no trainable parameter with numbers in it, so nothing would travel")
        self.whole_bytes = sum(x.nbytes for x in first.whole.values())
        wide = any(x.dtype == torch.float64 for x in self.like.values())
        self.dtype = torch.float64 if wide else torch.float32

    def now(self) -> ModuleTensors:
        """The tensors of this moment; LocalError when they are not those of the start, or cannot be written to."""
        found = ModuleTensors.of(self.module, but=self._stay)
        described = found.described()
        if described != self._start:
            raise LocalError(
                f"the model is not the one of the start: {next(changes(self._start, described))}; undo this, or make "
                "the replicas anew on all ranks"
            )
        found.check_writable()
        return found

    @property
    def shared(self) -> dict[str, Tensor]:
        """The tensors of this moment that travel, in the order of the start."""
        found = _shared(self.now())
        return {name: found[name] for name in self.like}

    def spec(self, names: Iterable[str]) -> TreeSpec:
        """Names and shapes of what travels, as it travels."""
        dtype = str(self.dtype).removeprefix("torch.")
        return TreeSpec(tuple((name, Spec(tuple(self.like[name].shape), dtype)) for name in names))

    def lines(self) -> list[str]:
        """The model as texts, one for each tensor, for a comparison with another rank's."""
        return [f"{name}, {text}" for name, text in self._start.items()]

    def read(self, names: Iterable[str]) -> Tensor:
        """The values of some of what travels, end to end, in fresh memory.  # (numel,)"""
        shared = self.shared
        chosen = {name: shared[name] for name in names}
        out = large.empty(sum(x.numel() for x in chosen.values()), self.dtype)
        for part, tensor in zip(pieces(out, chosen).values(), chosen.values(), strict=True):
            part.copy_(tensor.detach())
        return out

    def difference(self, start: Tensor, names: Iterable[str], into: Sequence[Tensor] | None = None) -> list[Tensor]:
        """What training changed, start - now, end to end; `start` is as the module's own types hold it.

        into: vectors that have as many numbers together; None: one in fresh memory.
        """
        shared, at = self.shared, 0
        chosen = {name: shared[name].detach() for name in names}
        into = [large.empty(sum(x.numel() for x in chosen.values()), self.dtype)] if into is None else list(into)
        rest = [x for x in into if len(x)]
        for name, begin in self.pieces(start, chosen).items():
            now, begin = chosen[name].reshape(-1), begin.reshape(-1)
            if (kind := now.dtype) != self.dtype:
                now, begin = now.to(self.dtype), begin.to(kind).to(self.dtype)
            now = now.cpu()
            done = 0
            while done < len(now):
                part = rest[0][at : at + len(now) - done]
                torch.sub(begin[done : done + len(part)], now[done : done + len(part)], out=part)
                done, at = done + len(part), at + len(part)
                if at == len(rest[0]):
                    del rest[0]
                    at = 0
        return into

    def pieces(self, vector: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Views of values that lie end to end, by name."""
        return pieces(vector, {name: self.like[name] for name in names})

    @torch.no_grad()
    def write(self, values: Tensor, names: Iterable[str]) -> None:
        """Put values that lie end to end into the module."""
        shared = self.shared
        for name, part in self.pieces(values, names).items():
            shared[name].copy_(part)

    def too_large(self, values: Tensor, names: Iterable[str]) -> str:
        """Which tensor could not hold its part of some finite values, as "0.weight (float16)"; "" when all can."""
        found = self.pieces(values, names)
        for name, part in found.items():
            kind = self.like[name].dtype
            if torch.finfo(kind).max < torch.finfo(self.dtype).max and not bool(part.to(kind).isfinite().all()):
                return f"{name} ({str(kind).removeprefix('torch.')})"
        return ""

    @property
    def narrow(self) -> bool:
        """Whether a tensor has a narrower type than its values travel in."""
        return any(torch.finfo(x.dtype).max < torch.finfo(self.dtype).max for x in self.like.values())

    def refresh(self) -> None:
        """Compute what the module derives from its parameters."""
        for unit in self._units:
            unit.refresh()
        refresh_derived(self.module)

    def whole(self) -> bytes:
        """The buffers that travel as they are."""
        return b"".join(_bytes(x) for x in self._whole_now())

    @torch.no_grad()
    def write_whole(self, data: bytes | memoryview) -> None:
        """Take over buffers as `whole` gave them; WireError for another length."""
        if len(data) != self.whole_bytes:
            raise WireError(f"the buffers of integers take {self.whole_bytes} bytes; got {len(data)}")
        at = 0
        for x in self._whole_now():
            part = vector_of(data[at : at + x.nbytes], torch.uint8)
            x.copy_((part.ne(0) if x.dtype == torch.bool else part.view(x.dtype)).reshape(x.shape))
            at += x.nbytes

    def _whole_now(self) -> list[Tensor]:
        whole = self.now().whole if self._whole else {}
        return [whole[name] for name in self._whole]

    def frozen_lines(self) -> list[str]:
        """A checksum of each frozen parameter, as a text."""
        return [f"{name} with checksum {crc32(_bytes(x)):08x}" for name, x in self.now().frozen.items()]


def check_finite_start(values: Mapping[str, Tensor]) -> None:
    """LocalError naming the first tensor that is not finite: all replicas would begin with it."""
    if all_finite(dict(values)):
        return
    for name, x in values.items():
        if not all_finite(x):
            bad = int((~torch.isfinite(x)).sum())
            raise LocalError(f"{name} has {bad} values of {x.numel()} that are not finite; start from finite values")


def fragments_of(tensors: ReplicaTensors, count: int) -> list[tuple[str, ...]]:
    """The names of what travels in `count` parts of about equal size, in the module's order; buffers in the last.

    >>> fragments_of(ReplicaTensors(nn.Sequential(nn.Linear(9, 2), nn.Linear(2, 9))), 2)
    [('0.weight', '0.bias'), ('1.weight', '1.bias')]

    Raises:
        LocalError: there are fewer parameters than parts.
    """
    sizes = {name: tensors.like[name].numel() for name in tensors.trained}
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
    parts[-1].extend(name for name in tensors.like if name not in sizes)
    return [tuple(part) for part in parts]


def digest_of(vector: Tensor, beside: bytes = b"") -> int:
    """A checksum of a vector on the CPU, and of bytes beside it."""
    return crc32(beside, crc32(vector.numpy().data))


def vector_of(data: bytes | memoryview, dtype: torch.dtype) -> Tensor:
    """A copy of bytes as a vector; torch.frombuffer takes no 0 bytes."""
    return torch.frombuffer(bytearray(data), dtype=dtype) if len(data) else torch.empty(0, dtype=dtype)


def _shared(found: ModuleTensors) -> dict[str, Tensor]:
    return found.trained | {BUFFER + name: x for name, x in found.floats.items()}


def _bytes(x: Tensor) -> bytes:
    return x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
