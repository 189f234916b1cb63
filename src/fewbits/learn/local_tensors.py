"""LocalTensors: what of a module is not exchanged, and what a run says when training changes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewbits.factor.derived import is_derived
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.module_snapshot import ModuleSnapshot

FROZEN_MOST = 2**24  # numbers of frozen parameters of which a copy is worth its memory
COUNTERS = "num_batches_tracked"  # of BatchNorm; it matters only with momentum=None


@dataclass
class _Local:
    """One tensor that stays."""

    name: str
    part: nn.Module  # whose it is
    tensor: Tensor
    first: Tensor | None  # a copy of its first values; None: too large for one
    version: int = -1  # torch's count of its changes, when its values were `first`

    @staticmethod
    def of(name: str, part: nn.Module, x: Tensor, copied: bool = True) -> _Local:
        return _Local(name, part, x, x.detach().clone() if copied else None, x._version)

    @property
    def _now(self) -> Tensor | None:
        return getattr(self.part, self.name.rpartition(".")[2], None)

    def restore(self) -> None:
        """The first values again."""
        if self._now is not self.tensor:
            setattr(self.part, self.name.rpartition(".")[2], self.tensor)
        if self.first is not None:
            self.tensor.detach().copy_(self.first)
        self.version = self.tensor._version

    def changed(self, closely: bool) -> bool:
        """Whether the values are others. torch does not count changes through `x.data`; a close look finds them."""
        if not closely and self._now is self.tensor and self.tensor._version == self.version:
            return False
        if self.first is None:
            return self._now is not self.tensor or self.tensor._version != self.version
        return self._now is None or not _equal(self._now, self.first)


class LocalTensors:
    """Integer buffers, buffers that are not saved or not finite, frozen parameters, and tensors that are neither.

    None of them travels.

    Args:
        model: the model, before its first training.
    """

    def __init__(self, model: FlatModel) -> None:
        self._model = model
        self.remarks: dict[str, str] = {}  # one sentence for each tensor that training changed, by its name
        named = list(_tensors(model))
        self._buffers = [_Local.of(name, part, x) for name, part, x in named if not isinstance(x, nn.Parameter)]
        self._others: list[_Local] | None = None
        self._snapshot: ModuleSnapshot | None = None
        self._looked = False

    def restore(self) -> None:
        """Buffers that are not exchanged, such as batch counters, begin anew."""
        for local in self._buffers:
            local.restore()

    def restore_all(self) -> None:
        """All that does not travel, and the module itself: no client sees what another client on it left.

        Call it before the first training, too.
        """
        if self._snapshot is None:
            self._snapshot = ModuleSnapshot(self._model)
        self._snapshot.restore()
        self.restore()
        if self._others is None:
            frozen = [one for one in _tensors(self._model) if isinstance(one[2], nn.Parameter)]
            copied = sum(x.numel() for _, _, x in frozen) <= FROZEN_MOST
            self._others = [_Local.of(name, part, x, copied) for name, part, x in frozen]
            self._others += [_Local.of(*one) for one in _attributes(self._model.module)]
        for local in self._others:
            local.restore()

    def look(self) -> None:
        """After a training: remark on what it changed and does not travel."""
        for name, became in self._model.left_out.items():
            if name not in self.remarks:
                self.remarks[name] = (
                    f"buffer {name} {became} after training, so it is not sent; every round begins with the value "
                    "that was sent last"
                )
        for local in [*self._buffers, *(self._others or ())]:
            if local.name not in self.remarks and not local.name.endswith(COUNTERS) and local.changed(not self._looked):
                self.remarks[local.name] = _sentence(local)
        foreign = self._model.foreign
        if self._snapshot is not None and foreign:
            for name in self._snapshot.look():
                self.remarks.setdefault(
                    name,
                    f"training changed {name} of the model; it is not sent, and every turn begins with it "
                    "as it was when the run began",
                )
        if not self._looked or foreign:
            self._look_for_new()

    def _look_for_new(self) -> None:
        """Tensors that training made. Torch's own code makes what it makes in the first one."""
        self._looked = True
        known = {local.name for local in [*self._buffers, *(self._others or ())]} | set(self._model.buffer_names)
        if self._others is not None:
            new = [name for name, _, _ in _attributes(self._model.module) if name not in known]
            new += [name for name, _ in self._model.module.named_buffers() if name not in known]
            for name in new:
                self.remarks[name] = (
                    f"training made the tensor {name}; it is not sent, and every turn begins without it. Register it "
                    "as a buffer, with its final shape, before the run to send it"
                )


def _tensors(model: FlatModel) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Buffers that are not laid out, and frozen parameters: name, module, tensor."""
    for prefix, part in model.module.named_modules():
        for last, x in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            name = f"{prefix}.{last}" if prefix else last
            if name not in model.buffer_names and not x.requires_grad:
                yield name, part, x


def _attributes(module: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Tensors that modules have beside parameters and buffers, except those computed from parameters."""
    for prefix, part in module.named_modules():
        for last, x in vars(part).items():
            if isinstance(x, Tensor) and not x.requires_grad and not is_derived(part, last):
                yield f"{prefix}.{last}" if prefix else last, part, x


def _equal(x: Tensor, y: Tensor) -> bool:
    """The same values, NaN at the same places included."""
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    return bool(((x == y) | ((x != x) & (y != y))).all())


def _sentence(local: _Local) -> str:
    """What training changed, why it is not sent, and what becomes of it."""
    x, name = local.tensor, local.name
    stays = "every round begins with its first value"
    if isinstance(x, nn.Parameter):
        stays = stays if local.first is not None else "clients that share a process find what the last one left"
        return (
            f"training changed {name}, though it is frozen; it is not sent, and {stays}. Register a buffer to send it"
        )
    if local.name.rpartition(".")[2] not in local.part._buffers:
        return f"training changed the tensor {name}, which is no buffer; it is not sent, and {stays}"
    why = "it is not saved with the model" if x.dtype == torch.float32 else f"it is {x.dtype}"
    if local.first is not None and x.is_floating_point() and not bool(torch.isfinite(local.first).all()):
        why = "its first values are not all finite"
    return f"training changed buffer {name}; it is not sent, because {why}, and {stays}"
