"""What `compress` carries: every strategy, wrapper and mod of Flower, tried one by one for docs/flower-strategies.md.

python tests/flower_table.py --write docs/flower-strategies.md
"""

import argparse
import inspect
import json
import logging
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.client import mod as legacy
from flwr.clientapp import ClientApp
from flwr.clientapp import mod as mods
from flwr.serverapp import strategy as flower

from fewbits import methods
from fewbits.engines.flower import Compressed, mod
from fewbits.errors import LocalError
from flower_task import DirectGrid, node

BEGIN = "<!-- tried: written by `python tests/flower_table.py --write docs/flower-strategies.md` -->"
END = "<!-- tried: end -->"
PAGE = Path(__file__).parents[1] / "docs" / "flower-strategies.md"
CLIENTS, ROUNDS, CLIP = 4, 3, 0.5
TOPK = "topk@fraction=0.34"  # with error feedback, an update is longer than the clip from round 3 on
OPTIONS: dict[str, dict[str, Any]] = {
    "FedProx": {"proximal_mu": 0.1},
    "Krum": {"num_malicious_nodes": 0},
    "MultiKrum": {"num_malicious_nodes": 0, "num_nodes_to_select": 2},
    "Bulyan": {"num_malicious_nodes": 0},
    "FedTrimmedAvg": {"beta": 0.2},
    "QFedAvg": {"client_learning_rate": 0.1},
    "FedXgbCyclic": {"fraction_evaluate": 0.0},
}
TREES = {
    "learner": {
        "gradient_booster": {
            "model": {
                "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": "1"},
                "iteration_indptr": [0, 1],
                "tree_info": [0],
                "trees": [{"id": 0}],
            }
        }
    }
}
WRAPPERS = {
    "DifferentialPrivacyServerSideFixedClipping": (None, lambda inner: (inner, 0.0, CLIP, CLIENTS)),
    "DifferentialPrivacyServerSideAdaptiveClipping": (None, lambda inner: (inner, 0.0, CLIENTS, CLIP)),
    "DifferentialPrivacyClientSideFixedClipping": ("fixedclipping_mod", lambda inner: (inner, 0.0, CLIP, CLIENTS)),
    "DifferentialPrivacyClientSideAdaptiveClipping": (
        "adaptiveclipping_mod",
        lambda inner: (inner, 0.0, CLIENTS, CLIP),
    ),
}
CLIPPING = {
    "fixedclipping_mod": "DifferentialPrivacyClientSideFixedClipping",
    "adaptiveclipping_mod": "DifferentialPrivacyClientSideAdaptiveClipping",
}
NAMES = ("message_size_mod", "arrays_size_mod", *CLIPPING, "LocalDpMod")
MODS = {name: getattr(mods, name) for name in NAMES if hasattr(mods, name)}  # an older Flower has fewer
MODS |= {"secagg_mod": legacy.secagg_mod, "secaggplus_mod": legacy.secaggplus_mod}
if "LocalDpMod" in MODS:
    MODS["LocalDpMod"] = MODS["LocalDpMod"](clipping_norm=1.0, sensitivity=1.0, epsilon=100.0, delta=0.1)


class Measured(flower.FedAvg):
    """FedAvg that measures, against the model that it sent, how far clients move it."""

    longest = 0.0

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: Any, grid: Any) -> Iterable[Message]:
        self.sent = [x.numpy() for x in arrays.values()]
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        replies = list(replies)
        for reply in (reply for reply in replies if reply.has_content()):
            (record,) = reply.content.array_records.values()
            moved = [x.numpy() - sent for x, sent in zip(record.values(), self.sent, strict=True)]
            self.longest = max(self.longest, float(np.sqrt(sum(np.square(x).sum() for x in moved))))
        return super().aggregate_train(server_round, replies)


def client(mods_in_order: list[Any]) -> ClientApp:
    """An app that moves floats along a fixed direction, and answers anything else with one tree."""
    app = ClientApp(mods=mods_in_order)

    @app.train()
    def train(message: Message, context: Any) -> Message:
        step = 2.0 ** int(context.node_config["partition-id"])
        moved = {}
        for name, array in message.content["arrays"].items():
            x = array.numpy()
            if x.dtype.kind == "f":
                x = (x - step * np.linspace(0.5, 1.0, x.size, dtype=x.dtype).reshape(x.shape)).astype(x.dtype)
            else:
                x = np.frombuffer(json.dumps(TREES).encode(), np.uint8)
            moved[name] = Array(x)
        metrics = MetricRecord({"num-examples": 5, "train_loss": 1.0 + step})
        return Message(RecordDict({"arrays": ArrayRecord(moved), "metrics": metrics}), reply_to=message)

    return app


def start(name: str = "") -> ArrayRecord:
    if name.startswith("FedXgb"):
        return ArrayRecord([np.frombuffer(b"", np.uint8)])
    return ArrayRecord({"a": Array(np.zeros((4, 3), np.float32)), "b": Array(np.zeros(3, np.float32))})


def play(strategy: flower.Strategy, apps: list[Any], folder: Path, name: str = "") -> ArrayRecord:
    app = client(apps)
    grid = DirectGrid({c + 1: node(app, c, folder, c + 1) for c in range(CLIENTS)})
    return strategy.start(grid, start(name), num_rounds=ROUNDS, timeout=5).arrays  # type: ignore[arg-type]


def tried(attempt: Callable[[], str]) -> str:
    """What came of it, in a few words; a refusal in its own."""
    try:
        return attempt()
    except LocalError as error:
        return f"refused: {str(error).partition(': ')[2].partition(';')[0]}"


def strategies(folder: Path) -> list[tuple[str, ...]]:
    """(name, with dense, with topk) for every strategy that is no wrapper."""
    found: list[tuple[str, ...]] = []
    for name in sorted(flower.__all__):
        kind = getattr(flower, name)
        if inspect.isabstract(kind) or name in WRAPPERS or not issubclass(kind, flower.Strategy):
            continue

        def made(kind: Any = kind, name: str = name) -> flower.Strategy:
            return kind(**{"fraction_evaluate": 0.0} | OPTIONS.get(name, {}))

        alone = play(made(), [], folder, name)
        found.append((name, *(tried(lambda m=m: _like(alone, made(), m, folder, name)) for m in ("dense", "topk"))))
    return found


def _like(alone: ArrayRecord, strategy: flower.Strategy, method: str, folder: Path, name: str) -> str:
    spoken = methods.named(method)
    ours = Compressed(strategy, spoken)
    arrays = play(ours, [mod(spoken)], folder / f"{name}-{method}", name)
    if ours.channel.notes:
        return f"left out: {ours.channel.notes[0]}"
    pairs = [(alone[n].numpy(), arrays[n].numpy()) for n in alone]
    if all(a.shape == b.shape and np.allclose(a, b, rtol=0, atol=1e-4) for a, b in pairs):
        return "the same model"
    moved = any(np.abs(b.astype(float)).max(initial=0) > 0 for _, b in pairs)
    return "trains" if method == "topk" and moved else "ANOTHER MODEL IN SILENCE"


def wrappers(folder: Path) -> list[tuple[str, ...]]:
    """(name, inside compress, around compress), each with the mod that it needs, after ours."""
    spoken, found = methods.named(TOPK), []
    for name, (needed, arguments) in WRAPPERS.items():
        apps = [mod(spoken), *([MODS[needed]] if needed else [])]

        def inside(name: str = name, arguments: Any = arguments, apps: list[Any] = apps) -> str:
            inner = Measured(fraction_evaluate=0.0)
            strategy = Compressed(getattr(flower, name)(*arguments(inner)), spoken)
            play(strategy, apps, folder / name)
            return outcome(strategy, inner)

        def around(name: str = name, arguments: Any = arguments, apps: list[Any] = apps) -> str:
            inner = Measured(fraction_evaluate=0.0)
            play(getattr(flower, name)(*arguments(Compressed(inner, spoken))), apps, folder / f"{name}-around")
            return clip(inner)

        found.append((f"{name}, {needed}" if needed else name, tried(inside), tried(around)))
    return found


def placed(folder: Path) -> list[tuple[str, ...]]:
    """(name, after our mod, before our mod)."""
    spoken, found = methods.named(TOPK), []
    for name, theirs in MODS.items():

        def order(apps: list[Any], name: str = name, wrapper: str | None = CLIPPING.get(name)) -> str:
            inner = Measured(fraction_evaluate=0.0)
            around = getattr(flower, wrapper)(*WRAPPERS[wrapper][1](inner)) if wrapper else inner
            strategy = Compressed(around, spoken)
            play(strategy, apps, folder / f"{name}-{apps.index(mine)}")
            return outcome(strategy, inner, clips=wrapper is not None)

        mine = mod(spoken)
        found.append((name, tried(lambda: order([mine, theirs])), tried(lambda: order([theirs, mine]))))
    return found


def outcome(strategy: Compressed, inner: Measured, clips: bool = True) -> str:
    """Whether clients took part by frames, and what their updates were to the strategy."""
    frames = strategy.channel.ledger.messages["up"] if strategy.channel.ledger.messages else 0
    if frames == CLIENTS * ROUNDS:
        return clip(inner) if clips else "compressed"
    return "left out, with a sentence" if strategy.channel.notes and not inner.longest else "IN SILENCE"


def clip(inner: Measured) -> str:
    ratio = inner.longest / CLIP
    return "compressed; no update passes the clip" if ratio < 1.001 else f"UPDATES OF {ratio:.2f} CLIPS"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)] + [""]


def written(folder: Path) -> str:
    """The tables."""
    heads = (
        ("strategy", "with `dense`", "with `topk`"),
        ("wrapper, with its mod", "`compress(wrapper(FedAvg()))`", "`wrapper(compress(FedAvg()))`"),
        ("mod", "after `fewbits.flower.mod`", "before it"),
    )
    log = logging.getLogger("flwr")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with patch("gc.collect"):  # Flower's records collect garbage for every array: half of the time
            rows = (strategies(folder), wrappers(folder), placed(folder))
    finally:
        log.setLevel(level)
    return "\n".join(line for head, found in zip(heads, rows, strict=True) for line in table(head, found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", type=Path)
    page = parser.parse_args().write
    with tempfile.TemporaryDirectory() as folder:
        found = written(Path(folder))
    if page is None:
        print(found)
    else:
        before, after = page.read_text().split(BEGIN)[0], page.read_text().split(END)[1]
        page.write_text(f"{before}{BEGIN}\n\n{found}\n{END}{after}")
