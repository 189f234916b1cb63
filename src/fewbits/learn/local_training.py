"""LocalTraining: a client trains by an optimizer of torch's, on whatever its examples are stored in."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fewbits.checks import check_number, check_one_of, check_whole, shown
from fewbits.errors import FewbitsError, LocalError, words
from fewbits.learn.batches import Batch, Call, takes_labels
from fewbits.learn.examples import Examples
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.local import Correction, clip
from fewbits.learn.local_report import LocalReport, Loss, LossMean
from fewbits.learn.optimizer_state import dump_optimizer, load_optimizer
from fewbits.learn.outputs import default_loss
from fewbits.learn.seeding import seeded
from fewbits.rng import Key

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class LocalTraining:
    """Train a client's model by any optimizer of torch's, with a schedule, mixed precision and accumulated batches.

    One step: ``g = sum_i n_i g_i / sum_i n_i`` over `accumulate` batches of n_i examples with mean gradients g_i; what
    the method adds to g; clipping; then ``optimizer.step()``. A step follows the last batch of the training, too.

    Args:
        optimizer: makes the optimizer of the parameters that it gets, which are those that train: in a subspace s, in a
            factored model the factors. A class such as `torch.optim.AdamW` makes one with its defaults.
        schedule: makes a scheduler of the optimizer; None: rates are constant.
        schedule_by: "round": it is where it is after as many steps as there were rounds before; "step": it takes a
            step after each of the optimizer's, from its beginning in every round, or on and on with `keep_optimizer`.
        batch_size: examples per batch, of clients whose data come without batches; 0: all in one.
        epochs: passes over a client's examples.
        steps: number of the optimizer's steps in place of `epochs`; None: use `epochs`.
        accumulate: batches per step.
        clip: largest 2-norm of a step's gradient; None: no limit.
        amp: "bf16" or "fp16": the forward pass in that type, where torch's autocast finds it safe; fp16 needs a GPU
            and scales the loss. None: float32.
        keep_optimizer: whether the optimizer's state stays with the client from round to round; it never travels.

    Raises:
        LocalError: an argument is out of range.

    Example:
        >>> import fewbits as fb
        >>> local = LocalTraining(lambda p: torch.optim.AdamW(p, 1e-2), batch_size=4)
        >>> data = [{"input": torch.eye(4), "labels": torch.arange(4)} for _ in range(2)]
        >>> fb.federate(nn.Linear(4, 4), data, "dense", rounds=1, local=local).reports[0].clients
        2

    Unlike LocalSGD, which steps on flat memory in place, every call makes the optimizer anew.
    """

    optimizer: Callable[[list[nn.Parameter]], Optimizer]
    schedule: Callable[[Any], Any] | None = None
    schedule_by: str = "round"
    batch_size: int = 10
    epochs: int = 1
    steps: int | None = None
    accumulate: int = 1
    clip: float | None = None
    amp: str | None = None
    keep_optimizer: bool = False

    def __post_init__(self) -> None:
        examples = {"optimizer": "lambda p: torch.optim.AdamW(p, 1e-3)", "schedule": "lambda o: StepLR(o, 10)"}
        for name, example in examples.items():
            function = getattr(self, name)
            if not callable(function) and not (function is None and name == "schedule"):
                raise LocalError(
                    f"LocalTraining: {name} must be a function that makes one, such as {example}; got {shown(function)}"
                )
        check_one_of("LocalTraining: schedule_by", self.schedule_by, ("round", "step"))
        check_whole("LocalTraining: batch_size", self.batch_size, 0, numpy=True)
        check_whole("LocalTraining: epochs", self.epochs, 1, numpy=True)
        check_whole("LocalTraining: accumulate", self.accumulate, 1, numpy=True)
        if self.steps is not None:
            check_whole("LocalTraining: steps", self.steps, 1, numpy=True)
        if self.clip is not None:
            check_number("LocalTraining: clip", self.clip, "(0, inf)", numpy=True)
        if self.amp is not None:
            check_one_of("LocalTraining: amp", self.amp, tuple(TYPES))

    def at(self, round: int) -> Self:
        """Itself: the schedule says what changes from round to round."""
        return self

    def check(self, module: nn.Module, device: torch.device) -> None:
        """Raise LocalError where the functions do not make what they should, before anything is trained."""
        if self.amp == "fp16" and device.type == "cpu":
            raise LocalError('amp="fp16" needs a GPU: its gradients are scaled there; on the CPU give amp="bf16"')
        optimizer, _ = self._made(module, 0)
        if wants := _wants(optimizer):
            raise LocalError(f"LocalTraining: optimizer made {wants}; take another, such as AdamW")

    def fit(
        self,
        model: FlatModel,
        examples: Examples,
        key: Key,
        *,
        round: int = 1,
        loss: Loss | None = None,
        correct: Correction | None = None,
        state: bytes = b"",
    ) -> LocalReport:
        """Train the model in place on a client's examples.

        Args:
            model: the client's.
            examples: the client's.
            key: of the order of examples, of dropout and of other noise.
            round: from 1; for the schedule.
            loss: (outputs, targets) -> the batch's mean; None: the model's own, or else cross-entropy.
            correct: changes `model.grads` in place before each step.
            state: the optimizer's after the client's last training; b"": it begins.

        Raises:
            LocalError: there is no example, or a function does not make what it should.
        """
        model.attach()
        module, device = model.module, model.params.device
        module.train()
        optimizer, scheduler, taken = self._resume(module, state, round)
        scaler = torch.amp.GradScaler(device.type) if self.amp == "fp16" else None  # pyright: ignore
        call = Call(module, labels=loss is None and takes_labels(module))
        moving = self.schedule_by == "step" or any(group["lr"] for group in optimizer.param_groups)
        mean, steps = LossMean(loss or default_loss), 0
        with seeded(key.fold("noise"), device):
            for batches in self._groups(examples, key):
                model.grads.zero_()
                weight = sum(batch.size for batch in batches)
                for batch in batches:
                    inputs, targets, size = batch.to(device)
                    with self._precision(device):
                        value = mean.loss(call(Batch(inputs, targets, size)), targets)
                    part = value * (size / weight)
                    (part if scaler is None else scaler.scale(part)).backward()
                    mean.add(value.item(), targets, size)
                model.take_gradients()  # an optimizer of the user's may have dropped the former ones
                self._step(model, optimizer, scaler, correct)
                steps += 1
                if scheduler is not None and self.schedule_by == "step":
                    scheduler.step()
        state = dump_optimizer(optimizer, taken + steps) if self.keep_optimizer else b""
        remarks = (
            call.remarks
            if moving
            else (*call.remarks, f"the schedule's learning rate is 0 in round {round}: nothing is trained")
        )
        return mean.report(steps, len(examples), remarks=remarks, optimizer_state=state)

    def _groups(self, examples: Examples, key: Key) -> Iterator[list[Batch]]:
        batches = examples.passes(
            self.batch_size, self.epochs, None if self.steps is None else self.steps * self.accumulate, key
        )
        while found := list(islice(batches, self.accumulate)):
            yield found

    def _precision(self, device: torch.device) -> AbstractContextManager[Any]:
        return nullcontext() if self.amp is None else torch.autocast(device.type, TYPES[self.amp])

    def _step(
        self,
        model: FlatModel,
        optimizer: Optimizer,
        scaler: Any,
        correct: Correction | None,
    ) -> None:
        if scaler is not None:
            scaler.unscale_(optimizer)
        if correct is not None:
            correct(model)
        if self.clip is not None:
            clip(model.grads, self.clip)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()

    def _resume(self, module: nn.Module, state: bytes, round: int) -> tuple[Optimizer, LRScheduler | None, int]:
        """The optimizer and the scheduler as they are at the beginning of this training, and the steps so far."""
        optimizer, scheduler = self._made(module, round - 1 if self.schedule_by == "round" else 0)
        taken = load_optimizer(optimizer, state) if state else 0
        if scheduler is not None and self.schedule_by == "step":
            _advance(scheduler, taken)
        return optimizer, scheduler, taken

    def _made(self, module: nn.Module, steps: int) -> tuple[Optimizer, LRScheduler | None]:
        trained = [p for p in module.parameters() if p.requires_grad]
        optimizer = _called("optimizer", self.optimizer, trained)
        if not isinstance(optimizer, Optimizer):
            raise LocalError(f"LocalTraining: optimizer must make a torch optimizer; it made a {_kind(optimizer)}")
        theirs, ours = {id(p) for group in optimizer.param_groups for p in group["params"]}, {id(p) for p in trained}
        if theirs - ours:
            raise LocalError(
                f"LocalTraining: optimizer made a {_kind(optimizer)} over {len(theirs - ours)} tensors that are no "
                "trained parameters of the model; make it of the parameters that the function gets"
            )
        if self.schedule is None:
            return optimizer, None
        scheduler = _called("schedule", self.schedule, optimizer)
        if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise LocalError(
                "LocalTraining: schedule must make a scheduler of torch's that needs no figure for its steps; it made "
                f"a {_kind(scheduler)}"
            )
        if scheduler.optimizer is not optimizer:
            raise LocalError(
                f"LocalTraining: schedule made a {_kind(scheduler)} of another optimizer, so it would change nothing; "
                "make it of the optimizer that the function gets"
            )
        _advance(scheduler, steps)
        return optimizer, scheduler


def _wants(optimizer: Optimizer) -> str:
    """What an optimizer needs that a local training does not give; "": nothing.

    >>> _wants(torch.optim.LBFGS([nn.Parameter(torch.ones(1))]))
    'an LBFGS, whose step calls the loss by itself'
    """
    if isinstance(optimizer, torch.optim.SparseAdam):
        return "a SparseAdam, which takes sparse gradients alone"
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    alone = closure is not None and closure.default is inspect.Parameter.empty
    return f"an {type(optimizer).__name__}, whose step calls the loss by itself" if alone else ""


def optimizer_hint(local: object) -> str:
    """The way out of giving an optimizer of torch's, or its class, in place of the local training; "": it is neither.

    >>> optimizer_hint(torch.optim.AdamW)
    '; give local=fb.LocalTraining(lambda p: AdamW(p, lr=0.01))'
    """
    kind = local if isinstance(local, type) else type(local)
    if not issubclass(kind, Optimizer):
        return ""
    return f"; give local=fb.LocalTraining(lambda p: {kind.__name__}(p, lr=0.01))"


def _advance(scheduler: LRScheduler, steps: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch expects a step of the optimizer first
        for _ in range(steps):
            scheduler.step()


def _called(name: str, function: Callable[[Any], Any], argument: object) -> Any:
    """What a function of the user's makes; LocalError when it raises."""
    try:
        return function(argument)
    except FewbitsError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise LocalError(f"LocalTraining: {name} fails: {type(error).__name__}: {words(error)}") from error


def _kind(value: object) -> str:
    return type(value).__name__
