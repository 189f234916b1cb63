"""`fewbits train` and `fewbits compare`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fewbits.cli import options as o
from fewbits.cli import play
from fewbits.cli.choice import rehearsal_of, with_choice
from fewbits.cli.comparison import Comparison
from fewbits.cli.config import RunConfig
from fewbits.cli.folder import check_free, claim, is_ours, take_up
from fewbits.cli.instead import instead, with_instead
from fewbits.cli.prepared import Found, PreparedRun, check_names, counted, is_remote, load_data, prepare
from fewbits.cli.problems import Problems
from fewbits.cli.screen import screen
from fewbits.engines.common.same_run import check_longer
from fewbits.engines.common.task import Task
from fewbits.errors import LocalError
from fewbits.learn.method import Method
from fewbits.methods.homes import AUTO
from fewbits.methods.text import read_all
from fewbits.sizes import read_sizes
from fewbits.trackers import Observer, observers
from fewbits.training.auto import Choice
from fewbits.training.federate import INSTEAD
from fewbits.training.rehearsal import ROUNDS

C = TypeVar("C", bound=Comparison)
R = TypeVar("R", bound=RunConfig)
TASK = (*o.DATA, *o.USERS, *o.TRAINING)
TRAIN = ("method", "rehearsal", "settings", *TASK, "seed", *o.PLAYING, "log", "live", *o.FOLDER)
COMPARE = ("methods", "seeds", "settings", "target_accuracy", "at", *TASK, *o.PLAYING, "log", "live", *o.FOLDER)


@o.command(TRAIN)
def train(given: o.Given) -> None:
    """Train one model by one method; leaves model.safetensors, report.html, summary.json and logs in OUT.

    Ctrl-C finishes the round and says how to go on.
    """
    if (folder := given["resume"]) is not None:
        o.check_resume(given)
        log = trackers(given, folder)
        config = extended(RunConfig.read(folder), o.configured(given))
        take_up(folder, config)
        play_all(prepare(config, data := load_data(config)), data, folder, log)
        return
    found = o.ended_by(o.configured(given))
    auto = check_auto(found, given["rehearsal"])
    problems = Problems()
    config = problems.of(lambda: RunConfig(**found))
    folder, log = place(given, "runs/first", problems)
    if config is None:
        problems.stop()
    assert config is not None
    method = problems.of(config.build_method)
    check_names(config, problems)
    data = found_data(config, problems)
    run = None
    if data is not None and method is not None:
        config = counted(config, data)
        run = None if auto else problems.of(partial(checked, config, data, method))
    problems.stop()  # a mistake is found before anything is trained, or removed
    assert folder is not None and data is not None
    if auto:
        rounds = ROUNDS if given["rehearsal"] is None else given["rehearsal"]
        config = chosen(config, data, rounds, rates="lr" not in found)
        run = checked(config, data, config.build_method())
    assert run is not None
    claim(folder, given["force"], config)
    play_all(run, data, folder, log)


def play_all(run: PreparedRun, data: Found, folder: Path, log: list[Observer]) -> None:
    """The run in its folder, and another one in a folder of it when it diverges and the choice was auto's."""
    record = play.train(run, folder, screen(), log)
    config, inner = instead(run.config, record), folder / INSTEAD
    if config is None:
        return
    if is_ours(inner):
        take_up(inner, config)
    else:
        claim(inner, False, config)
    play.train(prepare(config, data), inner, screen(), log)


def checked(config: RunConfig, data: Found, method: Method) -> PreparedRun:
    """The run, whose first batch and budget were tried."""
    run = prepare(config, data, method)
    run.check()
    return run


def place(given: o.Given, example: str, problems: Problems) -> tuple[Path | None, list[Observer]]:
    """The folder of all files, and what is told of the rounds; a folder that is given is refused before any work."""
    folder = problems.of(lambda: o.folder_of(given, example))
    if folder is not None:
        check_free(folder, given["force"])
    return folder, problems.of(lambda: trackers(given, folder or Path(example))) or []


def found_data(config: RunConfig, problems: Problems) -> Found | None:
    """The data; None where they have a problem, or where there is one already and they would come over a network."""
    return None if problems and is_remote(config) else problems.of(lambda: load_data(config))


def trackers(given: o.Given, folder: Path) -> list[Observer]:
    """What is told of the rounds."""
    return observers([*(given["log"] or ()), *(["live"] if given["live"] else [])], folder)


def check_auto(found: dict[str, Any], rehearsal: int | None) -> bool:
    """Whether the method is to be chosen, and is taken off the options; LocalError when others do not fit that."""
    if found.get("method") != AUTO:
        if rehearsal is not None:
            raise LocalError(f"--rehearsal goes with --method auto; got --method {found.get('method', 'dense')}")
        return False
    if "budget" not in found:
        raise LocalError("--method auto chooses by a budget; give one, such as --budget 2MB")
    if found.pop("settings"):
        raise LocalError("--method auto chooses the options, too; give a method's name beside --set or @")
    if "optimizer" in found:
        raise LocalError("--method auto chooses the learning rate of SGD, too; leave out --optimizer")
    if "falling" in found:
        raise LocalError("--method auto chooses over how many rounds the learning rate falls; leave out --falling")
    del found["method"]
    return True


def chosen(config: RunConfig, data: Found, rehearsal: int, rates: bool) -> RunConfig:
    """The run by the candidate that is best within its budget; its rate is the given one unless `rates`."""
    console = screen()
    played = rehearsal_of(
        config, data, rehearsal, rates, lambda line: console.print(line, markup=False, style="dim", soft_wrap=True)
    )
    choice = Choice.of(played)
    return with_instead(with_choice(config, choice), choice.instead)


@o.command(COMPARE, {"settings": o.OF_SEVERAL})
def compare(given: o.Given) -> None:
    """Train by several methods and seeds from the same initial model and partition; compare accuracy at equal bytes.

    Every run has its own folder in OUT. --resume continues a comparison that was stopped.
    """
    if (folder := given["resume"]) is not None:
        o.check_resume(given)
        log = trackers(given, folder)
        comparison = continued(Comparison.read(folder), given)
        take_up(folder, comparison)
        compared = play.Compared(comparison, load_data(comparison.base))
    else:
        if given["methods"] is None:
            raise LocalError("compare: give --methods, such as --methods dense,topk,lbgm, or --resume")
        problems = Problems()
        comparison = problems.of(lambda: wanted(Comparison, given, given["methods"]))
        folder, log = place(given, "runs/compare", problems)
        if comparison is None:
            problems.stop()
        assert comparison is not None
        check_names(comparison.base, problems)
        data = found_data(comparison.base, problems)
        if isinstance(data, Task):
            comparison = replace(comparison, base=counted(comparison.base, data))
        compared = None if data is None else play.Compared(comparison, data)
        if compared is not None:
            problems.of(compared.check)
        problems.stop()  # a mistake is found before anything is removed
        assert folder is not None and compared is not None
        claim(folder, given["force"], comparison)
    labels = [label for label in comparison.labels if label not in compared.left_out]
    title = f"{', '.join(labels)} on {comparison.base.data}"
    play.compare(compared, folder, screen(), title, log)


def wanted(kind: type[C], given: o.Given, methods: str) -> C:
    """The comparison that a command's options describe."""
    texts = tuple(method.full for method in read_all(methods, kind.kind.options))
    base = kind.kind(**{k: v for k, v in o.ended_by(o.configured(given, kind.kind)).items() if k != "settings"})
    settings = tuple(given["settings"] or ())
    seeds = o.numbers("0" if given["seeds"] is None else given["seeds"], "seeds")
    found = kind(base, texts, seeds, settings, given["target_accuracy"], read_sizes(given.get("at")))
    _ = found.built  # says what is wrong with an option of a method
    return found


def continued(earlier: C, given: o.Given) -> C:
    """The comparison in a folder, with what may differ when it is continued."""
    base = extended(earlier.base, o.configured(given, earlier.kind))
    at = read_sizes(given.get("at")) or earlier.at
    return replace(earlier, base=base, target_accuracy=given["target_accuracy"] or earlier.target_accuracy, at=at)


def extended(config: R, found: dict[str, Any]) -> R:
    """The configuration of a run that is continued."""
    longer = replace(config, **found)
    if config.rounds is not None and longer.rounds is not None:
        check_longer(config.rounds, longer.rounds)
    before, now = config.budget_bytes, longer.budget_bytes
    if before is not None and now is not None and now < before:
        raise LocalError(f"budget can be raised, not lowered: the run has {config.budget}; got {longer.budget}")
    return longer
