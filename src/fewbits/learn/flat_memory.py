"""FlatMemory: one block of numbers, and tensors on parts of it of which each has a storage of its size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import accumulate

import torch
from torch import Tensor


class FlatMemory:
    """A block of float32, and tensors on parts of it.

    A view shares its base's storage, and `torch.save` writes a whole storage. A saved view would carry all the tensors
    beside it, private ones, too. So a part is no view: it has a storage that ends where the part ends. All parts read
    and write the same numbers. A part keeps the block alive.

    Args:
        numel: how many numbers.
        device: where they are.

    Example:
        >>> memory = FlatMemory(100)
        >>> part = memory.part(10, (2, 3))
        >>> _ = memory.whole.fill_(7)
        >>> part.sum().item(), part.untyped_storage().nbytes()
        (42.0, 24)
    """

    whole: Tensor  # (numel,) float32; a storage over the whole block

    def __init__(self, numel: int, device: torch.device | str = "cpu") -> None:
        self.whole = torch.empty(numel, device=device)

    def part(self, start: int, shape: Iterable[int]) -> Tensor:
        """A tensor of this shape on the numbers from `start` on."""
        shape = tuple(shape)
        view = self.whole[start : start + math.prod(shape)].view(shape)
        if view.is_cpu:
            return torch.from_numpy(view.numpy())
        if view.is_cuda and view.numel():
            return torch.as_tensor(_CudaPart(view), device=view.device)
        return view  # no other device lets several storages share memory; `FlatModel.release` parts them

    def parts(self, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parts of these shapes that lie end to end from the start of the block, by name."""
        starts = accumulate((x.numel() for x in like.values()), initial=0)
        return {name: self.part(start, x.shape) for (name, x), start in zip(like.items(), starts, strict=False)}


class _CudaPart:
    """What another library would hand over: an address in the memory of a GPU, and the shape there."""

    def __init__(self, view: Tensor) -> None:
        self._view = view  # torch keeps this object, and so the block, while the part lives
        self.__cuda_array_interface__ = view.__cuda_array_interface__
