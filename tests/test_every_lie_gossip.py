"""Without a server, no lie of one node ends a run: it is left out and named, and the others learn."""

import math

import pytest
import torch
from torch import nn

import fewbits as fb
from fewbits import topology
from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Task
from fewbits.engines.distributed import DistributedRun, World, heartbeat
from fewbits.engines.distributed.frame_exchange import FrameExchange
from fewbits.engines.gossip import GossipRun
from fewbits.engines.gossip.shared_vectors import SharedVectors
from fewbits.engines.gossip.trainer import Trainer
from fewbits.learn.local import LocalSGD
from fewbits.methods.gossip import gossip_method
from fewbits.testing.ends import restamp
from fewbits.wire import Frame
from nodes import processes, run_all

NODES, LIAR, ROUNDS, LR = 4, 2, 4, 0.1
INTERMITTENT = topology.IntermittentNodes(topology.ring(NODES), 0.3, fb.Key(5))


def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def task():
    draws = torch.Generator().manual_seed(1)
    pairs = [(torch.randn(20, 6, generator=draws), torch.randint(3, (20,), generator=draws)) for _ in range(NODES)]
    return Task.of(model(), pairs, pairs[0], LocalSGD(lr=LR))


def filled(value):
    return lambda x, before: x.fill_(value)


def moved(times):
    return lambda x, before: x.copy_(before + times * (x - before))


def failing(x, before):
    raise KeyError("image")


# What the liar does to its model after its training; an engine with weights has more, which gossip has not.
VALUES = {
    "NaN": filled(math.nan),
    "inf": filled(math.inf),
    "4.7e36": filled(4.7e36),
    "sign flipped": moved(-1.0),
    "x1000": moved(1000.0),
    "-x1000": moved(-1000.0),
    "an exception": failing,
}


def wrong_layout(frame):
    other = fb.Sender(fb.Raw(), fb.Spec((7,)), fb.Key(0))
    return other.send(torch.ones(7))


def of_nan(frame):
    size = len(Frame.parse(frame).payload)
    return restamp(frame, b"\x7f\xc0\x00\x00\x00\x00\xc0\x7f" * (size // 8) + b"\xff" * (size % 8))


# What becomes of the liar's frames on their way.
BYTES = {
    "garbage": lambda frame: b"\0" * 40,
    "another program's": lambda frame: b"GET / HTTP/1.1\r\n",
    "empty but one": lambda frame: b"\xff",
    "cut": lambda frame: frame[: len(frame) // 2],
    "wrong layout": wrong_layout,
    "NaN in the payload": of_nan,
}
LEFT_OUT = {"4.7e36", "x1000", "-x1000", *BYTES} - {"sign flipped"}
NO_STEP = {"NaN", "inf", "an exception"}


@pytest.fixture
def lying(monkeypatch):
    """Have the liar lie, in this process and in those that it forks."""

    def begin(lie):
        if lie in VALUES:
            train = LocalSGD.train

            def tampered(self, flat, x, y, examples, key, **more):
                before = flat.params.clone()
                report = train(self, flat, x, y, examples, key, **more)
                if int(examples[0]) == 20 * LIAR:
                    VALUES[lie](flat.params, before)
                return report

            monkeypatch.setattr(LocalSGD, "train", tampered)
            return
        put, send = SharedVectors.put_frame, FrameExchange.send
        monkeypatch.setattr(
            SharedVectors,
            "put_frame",
            lambda self, i, frame, snapshot: put(self, i, BYTES[lie](frame) if i == LIAR else frame, snapshot),
        )
        step = Trainer.step

        def stepped(self, node):
            frame, report = step(self, node)
            data = BYTES[lie](frame) if node.me == LIAR else frame
            return (frame, report) if len(data) == len(frame) else (frame, _with(report, len(data)))

        monkeypatch.setattr(Trainer, "step", stepped)
        monkeypatch.setattr(
            FrameExchange,
            "send",
            lambda self, frame, to: send(self, BYTES[lie](frame) if self._world.rank == LIAR else frame, to),
        )

    return begin


def _with(report, frame_bytes):
    return type(report)(**{**report.asdict(), "frame_bytes": frame_bytes})


def check(lie, notes, models, reports, method):
    honest = [i for i in range(NODES) if i != LIAR]
    assert torch.isfinite(models).all()
    assert models[honest].abs().max() < 10, models.abs().amax(1)
    left_out, skipped = sum(r.left_out for r in reports), sum(r.skipped for r in reports)
    if lie in LEFT_OUT and (lie, method) != ("NaN in the payload", "malcom"):  # whose levels hold no NaN
        assert left_out and any(f"left out node {LIAR}'s frame" in note for note in notes), notes
    if lie in NO_STEP:
        assert skipped and any(f"node {LIAR} took no step" in note for note in notes), notes


@pytest.mark.parametrize("method", ["dsgd", "malcom"])
@pytest.mark.parametrize("lie", [*VALUES, *BYTES])
def test_on_one_machine(lying, lie, method):
    lying(lie)
    for network, count in ((topology.ring(NODES), 1), (INTERMITTENT, 2)):
        run = GossipRun(task(), gossip_method(method), network, Schedule(ROUNDS, processes=count), fb.Key(0))
        result = run.run()
        assert len(result.reports) == ROUNDS
        check(lie, result.notes, result.models, result.reports, method)


@pytest.mark.parametrize("lie,method", [*((lie, "dsgd") for lie in BYTES), *((lie, "malcom") for lie in VALUES)])
def test_over_a_network(monkeypatch, lying, lie, method):
    monkeypatch.setattr(heartbeat, "GRACE", 1.0)
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.2)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    lying(lie)
    ring, schedule = topology.ring(NODES), Schedule(ROUNDS, processes=1)

    def act(process):
        with World(process) as world:
            result = DistributedRun(task(), gossip_method(method), ring, schedule, fb.Key(0), None, world).run()
        reports = [[r.left_out, r.skipped] for r in result.reports]
        return [result.models.tolist(), result.notes, reports]

    outcomes = run_all(act, processes(NODES))
    assert [outcome.code for outcome in outcomes] == [0] * NODES, outcomes
    models, notes, counts = outcomes[0].value
    reports = [type("Report", (), {"left_out": a, "skipped": b}) for a, b in counts]
    assert len(reports) == ROUNDS
    check(lie, notes, torch.tensor(models), reports, method)
