"""federate: a whole training with a server in one call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from fewbits.engines.common.any_task import ClientData, held_out, task_over
from fewbits.engines.common.initial_model import InitialModel, Model
from fewbits.engines.common.run_files import MODEL, check_continues, write_links, write_weights
from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Local, Loss
from fewbits.engines.simulation import Federation, Result, RoundReport
from fewbits.errors import LocalError
from fewbits.factor.coordinates import leave_subspace
from fewbits.factor.derived import duplicate
from fewbits.files import placed
from fewbits.learn.method import Method
from fewbits.learn.metrics import Metric
from fewbits.methods import named
from fewbits.methods.homes import AUTO
from fewbits.methods.text import folder_name, read
from fewbits.report import Record
from fewbits.report.training import report
from fewbits.report.write import FIGURES, write
from fewbits.rng import Key
from fewbits.trackers import Observer, observers, watching
from fewbits.training.arguments import check_call
from fewbits.training.auto import choose, rest
from fewbits.training.length import lengths
from fewbits.training.subtitle import model_figures, participants, shown_settings, subtitle

INSTEAD = "instead"  # folder of what is played with the rest of a budget, in that of the run that diverged
OTHER_MODEL = "result.model, the reports and the bytes are those of the second run; the model that was given is not"
REHEARSES = "fewbits: auto rehearses on the task before it trains: up to a hundred short runs, and some whole ones"
HOLDOUT = "evaluate the clients' models on examples of theirs, such as a fifth of each client's by holdout=0.2"


def federate(
    model: Model,
    clients: Any,
    method: str | Method,
    rounds: int | None = None,
    *,
    budget: int | str | None = None,
    test: Any = None,
    local: Local | Callable[..., Any] | None = None,
    per_round: int | None = None,
    loss: Loss | None = None,
    metric: Metric | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    population: int | None = None,
    holdout: float | None = None,
    seed: int = 0,
    processes: int = 1,
    evaluate_every: int = 1,
    device: str = "cpu",
    out: Path | str | None = None,
    watch: Callable[[RoundReport], None] | None = None,
    log: Sequence[str | Observer] = (),
) -> Result:
    """Train `model` in place on the clients' data by a method, and count every byte in both directions.

    Every round: a bundle to each sampled client; its local training; one compressed frame back; then
    theta <- theta - lr_server * weighted mean of (start - end), decoded.

    Args:
        model: any module; it ends with the trained weights. Or a function that makes one: of a `fb.Key`, from which
            each client makes it, too, so that start weights travel as a seed; or of no argument, called once under the
            seed, and the weights travel. `result.model` has the trained module.
        clients: a list with the data of each client: an (x, y) pair of tensors or NumPy arrays, examples first; more
            tensors, of which the last one is y; a dict of tensors; a data set, a Hugging Face one, too; a DataLoader.
            Or a function of the client's number that returns one of these, called where the client trains; or a
            partitioner of flwr-datasets. float64
            arrays become float32 tensors. uint8 images (n, c, h, w) of pairs are scaled to [-1, 1].
        method: text such as "lbgm+topk" or "topk@fraction=0.01", or a Method such as `fb.methods.lbgm()`; "auto": the
            best for the budget, by rehearsals on these clients, with its learning rate unless `local` is given.
        rounds: rounds of the run, 50 by default; with a budget the most, and by default no limit. The same call with
            more rounds and the same `out` extends it, fewer are refused.
        budget: most bytes of the run, both directions: a number, or text such as "2MB" or "20kB/client" (mean of all
            clients). The run ends close to it, and never above; the same call with more and the same `out` extends it.
        test: what the public model is evaluated on, in any of these forms; None: no evaluation. There is an accuracy
            for outputs (n, classes, ...) with whole targets (n, ...), and for one output under torch's binary
            cross-entropy.
        local: how a client trains: a `fb.LocalSGD`, a `fb.LocalTraining` with any optimizer of torch's, or a function
            of (model, data, context). By default one epoch of SGD with learning rate 0.1 and batches of 10.
        per_round: clients sampled in each round; None: all.
        loss: loss(output, y), the batch's mean, of what the model gives; None: cross-entropy, of a tensor or of an
            output's logits. A model that takes labels computes its own loss then, as Hugging Face's do.
        metric: metric(output, y), the mean over a batch or its (sum, count), or one of fb.metrics; measured on `test`.
        collate: makes a batch of a list of examples, for data sets; it pads texts of several lengths.
        population: how many clients there are, where `clients` is a function.
        holdout: share of every client's examples for the evaluation of its own model; the report then has the spread
            over clients. They are the same examples for every seed. Loaders and streams are refused. None: none.
        seed: same seed, same bytes, for any number of processes.
        processes: worker processes; results do not depend on it.
        evaluate_every: rounds between two evaluations; the last round is always evaluated.
        device: where clients train, such as "cuda"; another than "cpu" needs one process.
        out: folder for logs and checkpoints, and at the end for the model, the figures and report.html, as
            `fewbits train` leaves them; an earlier part of the same run in it is continued. None: nothing is left.
        watch: a function that gets the report of every round.
        log: trackers that get the figures of every round: "tensorboard", "wandb" and "mlflow" by name, and each
            `fb.simulation.Observer`. "tensorboard" writes into `out`; "tensorboard:FOLDER" elsewhere.

    Returns:
        A `fb.simulation.Result`: the model, the reports, the ledger and notes; the history as a table, and a picture.

    Raises:
        LocalError: the arguments do not fit each other, the model or a function of yours fails on one batch before
            the first round, one round costs more than the budget, a tracker is not installed or does not start, or
            `out` holds another run or more rounds.
        FewbitsError: a disk is full, or files cannot be opened; it names the place, and has the cause.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> data = [(torch.eye(4), torch.arange(4)) for _ in range(3)]
        >>> result = federate(nn.Linear(4, 4), data, "topk@fraction=0.5", rounds=2, test=data[0])
        >>> len(result.reports), result.reports[-1].up_frame_bytes == result.ledger.frame_bytes["up"]
        (2, True)

    Source: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017.
    Unlike there, both directions are compressed, and a client that missed rounds is brought up to date.
    """
    check_call(rounds=rounds, seed=seed, watch=watch, out=out)
    observing = observers(log, out)
    key = Key(int(seed))
    initial = InitialModel.of(model, key)
    clients = list(clients) if isinstance(clients, Iterator) else clients  # a second run may need them again
    data = ClientData(clients, collate, population)
    task = held_out(task_over(initial.module, data, test, local, loss, metric), holdout)
    given = model_figures(initial.module)  # a method may factor it
    task = initial.started(task)
    length, chosen, choice = lengths(rounds, budget, task.clients), list[str](), None
    again = model
    schedule = Schedule(length.rounds, per_round, evaluate_every, 10, processes, device, length.budget)
    if method == AUTO:
        choice = choose(task, schedule, key, rates=local is None, say=_begin)
        again = duplicate(model) if isinstance(model, nn.Module) else model
        task, method, chosen = choice.on(task), choice.method, [choice.why]
        schedule = replace(schedule, give_up=True)
    text, method = method, named(method)
    label = str(read(text)) if isinstance(text, str) else method.name
    if out is not None:
        check_continues(Path(out))
    run = Federation(task, method, schedule, key, out)
    if run.folder is not None:
        with placed(run.folder):
            (run.folder / FIGURES).unlink(missing_ok=True)  # only a finished run has it
            write_links(run.server, run.folder)
    config = {"method": repr(method), **length.config, "per_round": per_round, "seed": seed, "local": repr(task.local)}
    observing = () if run.finished else observing
    with watching(observing, folder_name(label, seed), config | shown_settings(task), run.folder) as watchers:
        watchers.result = result = run.run(watchers.watch(watch))
    result.notes[:0] = chosen
    leave_subspace(result.model)  # it has its own parameters again
    if method.personal and test is not None and holdout is None:
        result.notes.append(f"{method.name} leaves each client a model of its own, so `test` says nothing; {HOLDOUT}")
    if run.folder is not None:
        line = subtitle(task, participants(task, per_round), length.said)
        result.notes.extend(_finish(run.folder, label, given, result, config, line))
    left = rest(length.budget, result.bytes) if run.gave_up and length.budget is not None else None
    if left is not None and choice is not None and choice.instead is not None:
        coming = choice.instead
        try:
            found = federate(
                again, clients, coming.method, rounds, budget=left, test=test, local=coming.on(task).local,
                per_round=per_round, loss=loss, metric=metric, collate=collate, population=population, holdout=holdout,
                seed=seed, processes=processes, evaluate_every=evaluate_every, device=device, watch=watch, log=log,
                out=None if out is None else Path(out) / INSTEAD,
            )  # fmt: skip
        except LocalError as error:  # it fits no round
            result.notes.append(f"nothing is played instead: {error}")
            return result
        found.notes[:0] = [*result.notes, coming.why, OTHER_MODEL]
        return found
    return result


def _begin(line: str) -> None:
    """Say once that rehearsals begin: the call would be silent for minutes."""
    if line.startswith("rehearsal 1:"):
        print(REHEARSES, file=sys.stderr, flush=True)


def _finish(
    folder: Path, name: str, model: Mapping[str, str], result: Result, config: Mapping[str, object], line: str
) -> list[str]:
    """Write what only a finished run has; returns a sentence for each file that could not be made."""
    title = f"{name} on {type(result.model).__name__}"
    with placed(folder):
        write_weights(result.model, folder / MODEL)
        record = Record.read(folder, name, int(str(config["seed"])))
        return write(folder, report(title, [record], config, {**record.summary(), **model}, None, line))
