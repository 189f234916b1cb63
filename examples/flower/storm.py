"""Fault-injection run: 20 rounds of a real federation with SuperLink, SuperNodes, TLS and node authentication.

    python examples/flower/storm.py

Replies are lost, late, repeated and corrupted, 5% of each. One SuperNode always lies. One is killed during its round
and comes back. The state folder of another is deleted. The ServerApp is killed within a round and started again. Then
it prints the outcome: the accuracy beside that of undisturbed runs, accepted faults, and whether both ends of every
link agree. At the end it stops everything that it started, whatever happens.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace

from flwr.app import ArrayRecord

import fewbits
from faults import FATES, Plan
from fewbits import models
from fewbits.cli.app import app
from fewbits.cli.config import RunConfig
from fewbits.cli.prepared import build_task, load_data
from fewbits.engines.flower.client_end import UP, ClientEnd
from fewbits.engines.simulation import Federation, Schedule
from fewbits.flower import named
from fewbits.links import ends
from fewbits.links.ledger import read
from fewbits.wire import Frame
from loopback import Loopback, end, started_with

FAULTS = Path(__file__).with_name("faults.py")
LOCAL = {"lr": 0.1, "batch_size": 20, "epochs": 2}


class Storm(Loopback):
    """A federation whose SuperNodes are those of `faults.py`, in which `plan` happens."""

    def __init__(self, folder: Path, nodes: int, plan: Plan) -> None:
        """`folder`: for certificates, logs and states."""
        super().__init__(folder, nodes)
        self.plan, self.events = plan, [f"{nodes} SuperNodes"]
        self.environment |= {"FEWBITS_STORM": str(plan.save())}

    def _start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        if command[0] == "flower-supernode":
            command = ("python", str(FAULTS), *command[1:])
        return super()._start(name, *command)

    def begin(self, project: Path, **config: object) -> subprocess.Popen[bytes]:
        """`flwr run` with this configuration, whose end nobody waits for."""
        text = " ".join(f"{name.replace('_', '-')}={value!r}" for name, value in config.items())
        return self._start("run", "flwr", "run", str(project), "loopback", "--stream", "--run-config", text)

    def weather(self, project: Path, patience: float, **config: object) -> None:
        """One run with all that `plan` holds, within `patience` seconds; a killed ServerApp is started again."""
        began, run, revival = time.monotonic(), self.begin(project, **config), None
        with ThreadPoolExecutor(1) as other:  # for the node that has to be let in again while the run goes on
            while run.poll() is None:
                if time.monotonic() > began + patience:
                    raise RuntimeError(f"the run has not ended after {patience:.0f} s:\n{self.log('run')[-3000:]}")
                if revival is None and self.plan.death and self.plan.marked("in-the-turn"):
                    revival = other.submit(self.kill_node, self.plan.death[1])
                if self.plan.marked("in-the-round") and not self.plan.marked("server-killed"):
                    self.kill_server()
                    end(run)
                    run = self.begin(project, **config)
                time.sleep(0.2)
        if revival is not None:
            revival.result()
        if run.returncode:
            raise RuntimeError(f"flwr run ended with {run.returncode}:\n{self.log('run')[-3000:]}")

    def kill_node(self, number: int) -> None:
        """SIGKILL for a SuperNode and all that it has started; then it is started again, until it is let in."""
        end(self.supernodes[number], at_once=True)
        self.events.append(f"SuperNode {number} killed within its turn of round {self.plan.closed() + 1}")
        self.start_supernode(number)
        self.events.append(f"SuperNode {number} was let in again while round {self.plan.closed() + 1} was on")

    def kill_server(self) -> None:
        """SIGKILL for the ServerApp; the SuperLink, which started it, lives on."""
        killed = 0
        for number in started_with(self.environment["FLWR_HOME"]):
            with suppress(OSError):  # it may have ended by itself
                if b"flwr-serverapp" in Path(f"/proc/{number}/cmdline").read_bytes():
                    os.kill(number, signal.SIGKILL)
                    killed += 1
        if not killed:
            raise RuntimeError("there is no ServerApp to kill")
        self.events.append(f"ServerApp killed within round {self.plan.closed() + 1}, and `flwr run` given again")
        self.plan.mark("server-killed")


def project(folder: Path) -> Path:
    """What `fewbits flower new` writes, with a mod before and one behind fewbits' own."""
    app(["flower", "new", str(folder)], standalone_mode=False)
    (folder / "digits_app" / "faults.py").write_text(FAULTS.read_text())
    client = folder / "digits_app" / "client_app.py"
    text = client.read_text().replace("import task\n", "import faults, task\n")
    changed = text.replace("mods=[compressed]", "mods=[faults.outside, compressed, faults.inside]")
    assert changed != text
    client.write_text(changed)
    return folder


def undisturbed(nodes: int, method: str, rounds: int, seed: int) -> float:
    """The accuracy of the same run in the engine `simulation`, whose model is Flower's, bit for bit."""
    run = RunConfig(clients=nodes, method=method, rounds=rounds, seed=seed, **LOCAL)
    task = replace(build_task(run, load_data(run)), seed=None, build=None)
    return Federation(task, run.build_method(), Schedule(rounds, processes=1), fewbits.Key(seed)).run().accuracy


@dataclass(frozen=True)
class Ends:
    """A link's two ends, by sequence number and digest of all that has passed."""

    client: int
    server: tuple[int, int]
    newest: tuple[int, int]  # the client's
    before: tuple[int, int]  # to which it goes back when the next bundle says that its newest reply did not count

    @property
    def agree(self) -> bool:
        """Whether they are in step, or will be with the next bundle."""
        return self.server in (self.newest, self.before)

    def __str__(self) -> str:
        number, digest = self.server
        how = {self.newest: "the same", self.before: "the same, its last reply taken back"}.get(self.server, "ANOTHER")
        return f"client {self.client}: server {number} frames, digest {digest:06x}; client {how}"


def both_ends(server: Path, nodes: Path, clients: int, method: str, seed: int) -> list[Ends]:
    """Read from the folders that the server and the clients have left."""
    key = fewbits.Key(seed)
    run = RunConfig(clients=clients, method=method, seed=seed)
    model = models.build("mlp", load_data(run), key.fold("model"))
    strategy = fewbits.flower.federated(method, clients=clients, seed=seed, state=server, evaluate=0.0)
    grid = SimpleNamespace(get_node_ids=lambda: range(clients), run=SimpleNamespace(run_id=0))
    strategy.start(grid, ArrayRecord(model.state_dict()), num_rounds=0)  # what a ServerApp does that is started again
    found = []
    for client in range(clients):
        receiver = strategy.server.receiver(client)
        with tempfile.TemporaryDirectory() as copy:
            shutil.copytree(next(nodes.glob(f"node-{client}/*/{client}")), copy, dirs_exist_ok=True)
            fresh = strategy.server.exchange.sender(key.fold("client", client, "up")).dump()
            with closing(ClientEnd(Path(copy), client, named(method, None, None), key)) as end:
                seen = [_end(end, fresh)]
                ends.rollback(end.store, end.store.newest(client, UP) or 0, [client], UP)
                seen.append(_end(end, fresh))
        found.append(Ends(client, (receiver.expects, receiver.history), *seen))
    return found


def _end(end: ClientEnd, fresh: bytes) -> tuple[int, int]:
    header = Frame.parse(ends.restore(end.store, end.client, UP) or fresh).header
    return header.sequence, header.history


def main() -> None:
    """Run it, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--nodes", type=int, default=6)
    parser.add_argument("--method", default="lbgm+topk")
    parser.add_argument("--timeout", type=float, default=90.0, help="seconds until a round closes without the late")
    parser.add_argument("--seed", type=int, default=0, help="of the faults; the model's is 0")
    parser.add_argument("--patience", type=float, default=2400.0, help="seconds for all of it")
    parser.add_argument("--keep", type=Path, help="a new folder for logs and states, which then stay")
    options = parser.parse_args()
    rounds, nodes = options.rounds, options.nodes
    logging.getLogger("flwr").setLevel(logging.ERROR)
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fewbits-storm-")))
        server = folder / "server"
        plan = Plan(
            *(str(folder / "storm"), str(server / "metrics.jsonl"), options.seed),
            liar=nodes - 2,
            death=(max(2, rounds // 4), 1),
            deletion=(max(3, rounds // 2 - 1), 2),
            crash=(max(3, rounds * 13 // 20), 0),
        )
        code, began = project(folder / "project"), time.monotonic()
        federation = stack.enter_context(Storm(folder, nodes, plan))
        print(f"SuperLink and {nodes} SuperNodes are up after {time.monotonic() - began:.0f} s", flush=True)
        config = {"method": options.method, "clients": nodes, "per_round": nodes, "rounds": rounds}
        federation.weather(code, options.patience, state=str(server), timeout=options.timeout, **config)
        federation.close()
        print(f"the run has ended after {time.monotonic() - began:.0f} s; " + "; ".join(federation.events))
        clean = [undisturbed(nodes, options.method, rounds, seed) for seed in range(5)]
        print("\n".join(verdict(folder, plan, rounds, clean)))
        found = both_ends(server, folder, nodes, options.method, 0)
        print("\n".join(map(str, found)))
        if not all(each.agree for each in found):
            sys.exit("the ends of a link differ")


def verdict(folder: Path, plan: Plan, rounds: int, clean: list[float]) -> list[str]:
    """The table of faults, and what became of the model."""
    lines = [json.loads(line) for line in (Path(plan.folder) / "journal.jsonl").read_text().splitlines()]
    turns = {(line["round"], line["client"]): line["fate"] for line in lines if "fate" in line}  # the last attempt
    taken = Counter((e.round, e.client) for e in read(folder / "server" / "ledger.jsonl") if e.direction == "up")
    rows = [f"{'replies':12}{'sent':>6}{'accepted':>10}"]
    for fate in ("fine", *FATES, "lie", "trouble"):
        sent = [turn for turn, said in turns.items() if said == fate]
        rows.append(f"{fate:12}{len(sent):6}{sum(taken[turn] for turn in sent):10}")
    if any(taken[turn] for turn, said in turns.items() if said in ("corrupted", "lie")):
        raise RuntimeError("a corrupted reply was accepted:\n" + "\n".join(rows))
    twice = sum(n > 1 for n in taken.values())
    summary = json.loads((folder / "server" / "summary.json").read_text())
    log = (folder / "run.log").read_text().splitlines()
    return [
        *rows,
        f"replies accepted twice: {twice}; rounds closed: {plan.closed()} of {rounds}",
        f"accuracy {summary['accuracy']:.3f}; undisturbed, seeds 0 to {len(clean) - 1}: {mean(clean):.3f} "
        f"+- {stdev(clean):.3f} ({min(clean):.3f} to {max(clean):.3f})",
        *(f"note: {line.split('fewbits: ', 1)[1]}" for line in log if "fewbits: round" in line and "WARN" in line),
    ]


if __name__ == "__main__":
    main()
