"""Blocks: a vector of equal blocks, of which only those that moved travel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewbits.checks import check_number, check_whole
from fewbits.codecs.base import Codec, Keys, Partial, wide
from fewbits.codecs.chain import chain
from fewbits.codecs.transforms.raw import Raw
from fewbits.codecs.transforms.topk import TopK
from fewbits.codecs.wrappers.error_feedback import ErrorFeedback
from fewbits.codecs.wrappers.wrapper import Wrapper
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.wire import BitReader, BitWriter

MOST = 4096  # blocks; each costs a bit of every message


@dataclass(frozen=True, repr=False)
class Blocks(Wrapper):
    """Send the blocks that are not zero, each by a codec with a state and a memory of its own.

    x is `count` blocks of the same length, the last of which may be shorter. A block travels when it is not zero and
    its norm is at least `least` times that of the longest one. The others arrive as zeros; they cost a bit.

    Args:
        codec: of each block.
        count: blocks, 1..4096.
        least: share of the longest block's norm from which a block travels, in [0, 1]; larger: fewer bytes.

    Raises:
        LocalError: an option is out of range.

    Example:
        >>> import torch
        >>> from fewbits import Key, Raw, Receiver, Sender, Spec
        >>> x = torch.tensor([0.0, 0.0, 1.0, 2.0])
        >>> frame = Sender(Blocks(Raw(), 2), Spec.of(x), Key(0)).send(x)
        >>> Receiver(Blocks(Raw(), 2), Spec.of(x)).receive(frame)
        tensor([0., 0., 1., 2.])

    Source: ours; in K-subspace compression a client sends one of K vectors (Wang and Melas-Kyriazi 2021).
    """

    wire_name: ClassVar[str] = "blocks"

    count: int = 1
    least: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("Blocks: count", self.count, 1, MOST)
        check_number("Blocks: least", self.least, "[0, 1]")
        object.__setattr__(self, "least", float(self.least))

    def _sizes(self, spec: Spec) -> list[int]:
        """Entries of each block; the last ones may be shorter."""
        size = -(-spec.numel // self.count)
        return [min(size, max(0, spec.numel - k * size)) for k in range(self.count)]

    def _specs(self, spec: Spec) -> list[Spec]:
        return [replace(wide(spec), shape=(size,), segments=()) for size in self._sizes(spec)]

    def _cut(self, x: Tensor, spec: Spec) -> tuple[Tensor, ...]:
        return x.to(wide(spec).torch_dtype).split(self._sizes(spec))

    def check(self, spec: Spec) -> None:
        for part in self._specs(spec):
            self.codec.check(part)

    def _of_each(self, make: Callable[[Spec], Any], spec: Spec) -> tuple[Any, ...]:
        return tuple(make(part) for part in self._specs(spec))

    def init(self, spec: Spec) -> tuple[Any, ...]:
        return self._of_each(self.codec.init, spec)

    def start(self, x: Tensor, spec: Spec) -> tuple[Any, ...]:
        pairs = zip(self._cut(x, spec), self._specs(spec), strict=True)
        return tuple(self.codec.start(part, seen) for part, seen in pairs)

    def memory(self, spec: Spec) -> tuple[Any, ...]:
        return self._of_each(self.codec.memory, spec)

    def encode(self, x: Tensor, spec: Spec, state: Any, memory: Any, keys: Keys) -> tuple[Any, Any]:
        """((block, its message), ...), ascending, and the new memories."""
        parts, specs = self._cut(x, spec), self._specs(spec)
        norms = [float(torch.linalg.vector_norm(part, dtype=torch.float64)) for part in parts]
        least, message, after = self.least * max(norms, default=0.0), [], list(memory)
        for k, part in enumerate(parts):
            if norms[k] > 0 and norms[k] >= least:
                both = Keys(keys.private.fold("block", k), keys.common.fold("block", k))
                sent, after[k] = self.codec.encode(part, specs[k], state[k], memory[k], both)
                message.append((k, sent))
        return tuple(message), tuple(after)

    def _decoded(self, message: Any, spec: Spec, state: Any) -> tuple[list[tuple[int, Tensor]], tuple[Any, ...]]:
        found, after, specs = list[tuple[int, Tensor]](), list(state), self._specs(spec)
        for k, sent in message:
            x, after[k] = self.codec.decode(sent, specs[k], state[k])
            found.append((k, x))
        return found, tuple(after)

    def decode(self, message: Any, spec: Spec, state: Any) -> tuple[Tensor, Any]:
        found, after = self._decoded(message, spec, state)
        x = torch.zeros(spec.numel, dtype=spec.torch_dtype)
        parts = x.split(self._sizes(spec))
        for k, part in found:
            parts[k].copy_(part)
        return x, after

    def partial(self, message: Any, spec: Spec, state: Any) -> tuple[Partial, Any]:
        """The blocks that came, on their places."""
        found, after = self._decoded(message, spec, state)
        size = -(-spec.numel // self.count)
        values = torch.cat([torch.zeros(0, dtype=wide(spec).torch_dtype), *(x for _, x in found)])
        places = torch.cat(
            [torch.zeros(0, dtype=torch.int64), *(torch.arange(k * size, k * size + len(x)) for k, x in found)]
        )
        return Partial(values, places), after

    def complete(self, total: Tensor, side: Any, spec: Spec) -> Tensor:
        return total

    def write(self, message: Any, spec: Spec, out: BitWriter) -> None:
        """One bit for each block, then the messages."""
        there = {k for k, _ in message}
        for k in range(self.count):
            out.write(int(k in there), 1)
        specs = self._specs(spec)
        for k, sent in message:
            self.codec.write(sent, specs[k], out)

    def read(self, spec: Spec, src: BitReader, common: Key) -> tuple[Any, ...]:
        there = [k for k in range(self.count) if src.read(1)]
        specs = self._specs(spec)
        return tuple((k, self.codec.read(specs[k], src, common.fold("block", k))) for k in there)

    def write_state(self, state: Any, spec: Spec, out: BitWriter) -> None:
        for one, part in zip(state, self._specs(spec), strict=True):
            self.codec.write_state(one, part, out)

    def read_state(self, spec: Spec, src: BitReader) -> tuple[Any, ...]:
        return self._of_each(lambda part: self.codec.read_state(part, src), spec)

    def write_memory(self, memory: Any, spec: Spec, out: BitWriter) -> None:
        for one, part in zip(memory, self._specs(spec), strict=True):
            self.codec.write_memory(one, part, out)

    def read_memory(self, spec: Spec, src: BitReader) -> tuple[Any, ...]:
        return self._of_each(lambda part: self.codec.read_memory(part, src), spec)

    def observe(self, message: Any, memory: Any | None = None) -> dict[str, float]:
        """Means over the blocks that travelled."""
        found = [self.codec.observe(sent, None if memory is None else memory[k]) for k, sent in message]
        names = {name for figures in found for name in figures}
        return {name: sum(f[name] for f in found if name in f) / sum(name in f for f in found) for name in names}

    @classmethod
    def examples(cls) -> Sequence[Codec]:
        return [cls(chain(Raw()), 3), cls(ErrorFeedback(chain(TopK(0.2))), 2, least=0.1)]
