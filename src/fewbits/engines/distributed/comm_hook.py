"""comm_hook: gradients of DistributedDataParallel through any codec, one frame a rank and step."""

# No `from __future__ import annotations`: DDP compares the hook's annotations with classes.

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from fewbits.checks import check_whole
from fewbits.engines.distributed.agreement import agree
from fewbits.engines.distributed.message_gather import MessageGather
from fewbits.errors import LocalError
from fewbits.links import Ledger
from fewbits.replicas import AnyMethod, Counted, GradientMean, codec_of
from fewbits.replicas.gradient_mean import hook_facts
from fewbits.replicas.state_parts import check_same
from fewbits.replicas.terms import text_of
from fewbits.rng import Key
from fewbits.spec import FLOATS, Spec, TreeSpec

GradBucket = dist.GradBucket  # pyright: ignore[reportPrivateImportUsage] - it is documented
TORCH_FUTURE = torch.futures.Future[Tensor]


class _Waiting(NamedTuple):
    """A bucket whose mean is not known yet."""

    buffer: Tensor  # of all gradients in it
    parameters: list[Tensor]
    gradients: list[Tensor]  # views of the buffer
    mean: TORCH_FUTURE


class HookState(Counted):
    """This rank's ends of the links of a communication hook; `comm_hook` makes it.

    All buckets of a step travel as one frame, made when the last bucket is there. The gradients' order in it is that
    of the first step. DDP orders its buckets anew after the first step, and error feedback and look-back vectors stay
    with their parameters.

    Args:
        method: as for `comm_hook`; so are all that follow.
        warmup: steps in float32.
        group: the ranks.
        key: all random numbers are drawn from it.
        timeout: seconds to wait for another rank.

    Raises:
        LocalError: as for `comm_hook`.
    """

    def __init__(
        self, method: AnyMethod, warmup: int = 0, group: Any = None, key: Key = Key(0), timeout: float = 1800.0
    ) -> None:
        self._gather = MessageGather(group, timeout, "comm_hook")
        with self._gather.refusing():
            check_whole("comm_hook: warmup", warmup, 0)
            if not isinstance(key, Key):
                raise LocalError(f"comm_hook: key must be a Key, such as fb.Key(0); got {key!r}")
            self._codec, self._key, self._warmup = codec_of(method, "comm_hook"), key, warmup
        self._given = text_of(method)
        self._facts = hook_facts(self._codec, self._given, warmup, key)
        agree(self._gather, self._facts)
        self._mean: GradientMean | None = None
        self._loaded: Mapping[str, object] | None = None
        self._places: dict[int, str] = {}  # names of parameters, "0", "1" and so on, by id
        self._parameters: list[Tensor] = []  # the parameters, so that no other takes their ids
        self._waiting: list[_Waiting] = []
        self._refused = False  # this step: its other buckets do not travel

    def add(self, bucket: GradBucket) -> TORCH_FUTURE:
        """Take a bucket; its future has the mean once the last bucket of the step was taken.

        When a rank refuses, all gradients become zero, and `backward` raises once DDP has ended its pass, so that the
        run can go on. Nothing else has changed.

        Raises, from `backward`:
            LocalError: a gradient is sparse, not of floats or not finite; or the parameters are not those of before.
            PeerLostError: another rank refused, was lost, or is too late.
        """
        buffer = bucket.buffer()
        devices: list[int | str | torch.device] = [buffer.device] if buffer.is_cuda else []
        mean: TORCH_FUTURE = torch.futures.Future(devices=devices)
        before = [] if bucket.index() else self._begin_step()
        self._waiting.append(_Waiting(buffer, bucket.parameters(), bucket.gradients(), mean))
        if not self._refused:
            try:
                self._check(bucket, before)
                if bucket.is_last():
                    self._exchange()
            except Exception as error:  # noqa: BLE001 - it is raised once DDP has ended its pass, whatever it is
                self._refused = True
                _raise_after_backward(error)
        if self._refused or bucket.is_last():
            self._resolve()
        return mean

    def _begin_step(self) -> list[_Waiting]:
        """Forget the step before; the buckets that still waited in it."""
        before, self._waiting, self._refused = self._waiting, [], False
        return before

    def _resolve(self) -> None:
        """Give DDP the buckets that wait: with the mean, or zeros."""
        for waiting in self._waiting:
            if self._refused:
                waiting.buffer.zero_()
            waiting.mean.set_result(waiting.buffer)
        self._waiting.clear()

    def _check(self, bucket: GradBucket, before: list[_Waiting]) -> None:
        buffer = bucket.buffer()
        with self._gather.refusing():
            if before:
                raise LocalError("comm_hook: the last backward pass did not reach all parameters of the model")
            if buffer.layout != torch.strided:
                raise LocalError(
                    "comm_hook: a gradient is sparse, as of torch.nn.Embedding(sparse=True); frames carry dense "
                    "gradients, so use sparse=False"
                )
            if str(buffer.dtype).removeprefix("torch.") not in FLOATS:
                raise LocalError(f"comm_hook: gradients must be of floats ({', '.join(FLOATS)}); got {buffer.dtype}")

    def _exchange(self) -> None:
        """One frame of every rank, for all buckets of this step."""
        core = self._mean or self._begun()
        with self._gather.refusing():
            message = core.message(self._laid(core.spec))
        try:
            found = core.take(self._gather(message, core.note, core.most_bytes))
        except BaseException:
            core.rollback()
            raise
        for waiting in self._waiting:
            for parameter, gradient in zip(waiting.parameters, waiting.gradients, strict=True):
                gradient.copy_(found[self._places[id(parameter)]])

    def _begun(self) -> GradientMean:
        """The links, made at the first step."""
        pairs = [pair for w in self._waiting for pair in zip(w.parameters, w.gradients, strict=True)]
        self._parameters = [parameter for parameter, _ in pairs]
        self._places = {id(parameter): str(i) for i, parameter in enumerate(self._parameters)}
        dtype = "float64" if any(gradient.dtype == torch.float64 for _, gradient in pairs) else "float32"
        spec = TreeSpec(tuple((str(i), Spec(tuple(x.shape), dtype)) for i, (_, x) in enumerate(pairs)))
        with self._gather.refusing():
            made = GradientMean(
                self._codec, spec, self._gather.rank, self._gather.size, self._warmup, self._key, self._given
            )
            if self._loaded is not None:
                made.load_state_dict(self._loaded)
        self._mean, self._loaded = made, None
        return made

    def _laid(self, spec: TreeSpec) -> dict[str, Tensor]:
        """All gradients on the CPU, end to end in the order of the first step."""
        flat = torch.empty(spec.numel, dtype=spec.entries[0][1].torch_dtype)
        parts = torch.split(flat, [leaf.numel for _, leaf in spec])
        found = {name: part.view(leaf.shape) for (name, leaf), part in zip(spec, parts, strict=True)}
        missing = set(found)
        for waiting in self._waiting:
            for parameter, gradient in zip(waiting.parameters, waiting.gradients, strict=True):
                name = self._places.get(id(parameter))
                if name not in missing:
                    raise LocalError("comm_hook: the model has other parameters than at the first step")
                found[name].copy_(gradient)
                missing.remove(name)
        if missing:
            raise LocalError(f"comm_hook: {len(missing)} of {len(found)} parameters of the first step have no gradient")
        return found

    @property
    def steps(self) -> int:
        """Exchanges so far."""
        return self._mean.steps if self._mean else 0

    @property
    def ledger(self) -> Ledger:
        """Every frame that this rank sent ("up", once for each receiver) and received ("down"), by step."""
        return self._mean.ledger if self._mean else Ledger()

    def state_dict(self) -> dict[str, object]:
        """This rank's ends of the links for a checkpoint, error feedback among them; {} before the first step.

        It holds tensors, texts and numbers, so `torch.load(weights_only=True)` reads it. Every rank has its own.
        """
        return self._mean.state_dict() if self._mean else dict(self._loaded or {})

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from this rank's `state_dict`, on all ranks; call it before the first step.

        The next step checks the gradients' shapes, when it knows them.

        Raises:
            LocalError: the state is of another rank or method; the text has both values. Nothing has changed.
        """
        if self._mean is not None:
            self._mean.load_state_dict(state)
        elif isinstance(state, Mapping) and not state:
            self._loaded = None
        else:
            check_same(state, self._facts, {"rank": self._gather.rank, "size": self._gather.size})
            self._loaded = dict(state)


def _raise_after_backward(error: Exception) -> None:
    """Let `backward` raise this once DDP has ended its pass; a hook that raises leaves DDP unusable."""
    queue = torch.autograd.Variable._execution_engine.queue_callback  # as torch's own FSDP does

    def fail() -> None:
        raise error

    queue(lambda: queue(fail))  # DDP's own end of the pass is queued between the two


def _hook(state: HookState, bucket: GradBucket) -> TORCH_FUTURE:
    return state.add(bucket)


def comm_hook(
    method: AnyMethod, warmup: int = 0, group: Any = None, key: Key = Key(0), timeout: float = 1800.0
) -> tuple[HookState, Any]:
    """A communication hook for DistributedDataParallel, and its state: `ddp.register_comm_hook(*comm_hook("topk"))`.

    In every step each rank sends its gradient as one frame to each of the others. All decode all frames in the order
    of ranks, and take their mean: ``g = (g_0 + ... + g_{R-1}) / R``, the same bits everywhere. With `"dense"` that is
    DDP's own mean up to rounding. Methods with look-back (`"lbgm"`) send a scalar while a rank's gradient points as
    before. Backward and network do not overlap: the frame is made when the last gradient is there.

    It pays on slow links only. With b bytes a frame, P numbers, R ranks and e seconds to encode and decode, it beats a
    ring all-reduce of float32 below a bandwidth, in bytes a second, of ``((8 (R-1) / R) P - (R-1) b) / e``.

    Args:
        method: as text (`"topk@fraction=0.01"`), a Method, or a codec. Only its uplink is used.
        warmup: first steps whose gradients travel in float32.
        group: the ranks, those of DDP's process_group; None: all. Frames travel over a gloo group of the same ranks.
        key: all random numbers are drawn from it.
        timeout: seconds to wait for another rank. One that has died is noticed at once.

    Returns:
        (state, hook). The state has `sent_bytes`, `ledger`, `state_dict` and `load_state_dict`.

    Raises:
        LocalError: torch.distributed is not initialised, or an argument does not fit.
        DesyncError: the ranks differ; the sentence is the same on all of them and has both values.

    Example:

        ddp = DistributedDataParallel(model)
        state, hook = fb.distributed.comm_hook("topk@fraction=0.01", warmup=100)
        ddp.register_comm_hook(state, hook)

    References:
        Hooks: Li et al., PyTorch Distributed, VLDB 2020. The scalar: Azam et al., Recycling Model Updates, ICLR 2022.
    """
    return HookState(method, warmup, group, key, timeout), _hook
