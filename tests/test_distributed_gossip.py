"""Gossip over torch.distributed: the same frames and models as in one process, and repaired damage."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time

import pytest
import torch
from torch import nn

import fewbits as fb
from fewbits import data, models
from fewbits.engines.distributed import DistributedRun, FrameExchange, ProcessInfo, World, heartbeat
from fewbits.engines.distributed.node_checkpoints import NodeCheckpoints, newest_common_round
from fewbits.engines.distributed.peer import Peer
from fewbits.errors import DesyncError
from fewbits.learn.flat_model import FlatModel
from fewbits.rng import Key
from nodes import processes, run_all

ROUNDS, SIZE, LR = 6, 4, 0.1
KEY = Key(11)
FOUR_BITS = fb.flat(fb.chain(fb.Quantize(bits=4), fb.Golomb()))
METHODS = {
    "dsgd": fb.learn.DSGD(),
    "choco": fb.learn.Choco(FOUR_BITS, gamma=0.5),
    "malcom": fb.learn.Malcom(FOUR_BITS, gamma=0.5, regulariser=fb.learn.L1(0.01)),
    "mixed": fb.learn.Choco(FOUR_BITS, gamma=0.5, position="mixed", momentum=0.5),
}


@pytest.fixture(scope="module", autouse=True)
def warm():
    """Load the kernels and the data's library once, before forking."""
    data.load("digits")
    in_one_process(METHODS["malcom"])


@pytest.fixture(autouse=True)
def loopback(monkeypatch):
    monkeypatch.setattr(heartbeat, "GRACE", 1.0)
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.2)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


def network(kind="ring"):
    ring = fb.topology.ring(SIZE)
    return fb.topology.IntermittentNodes(ring, 0.4, KEY.fold("awake")) if kind == "intermittent" else ring


def node_of(method, me, kind="ring") -> fb.learn.Node:
    model = nn.Linear(30, 5)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.from_numpy(KEY.fold("model", p.numel()).normal(p.numel())).view_as(p))
    return fb.learn.Node(model, method, network(kind), me, KEY)


def trainer(node):
    """One step of least squares on the node's own data of this round."""

    def train(flat: FlatModel) -> float:
        x = torch.from_numpy(KEY.fold("x", node.me, node.round).normal(60)).view(2, 30)
        flat.grads.zero_()
        (flat.module(x) - float(node.me)).square().mean().backward()
        flat.params.sub_(flat.grads, alpha=LR)
        return LR

    return train


def digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def model_of(node: fb.learn.Node) -> str:
    return digest(node.vectors.x.numpy().tobytes())


def in_one_process(method, kind="ring"):
    """(frames by round and sender, final models) of all nodes in one process."""
    nodes, frames = [node_of(method, me, kind) for me in range(SIZE)], {}
    for number in range(1, ROUNDS + 1):
        sent = {node.me: node.step(trainer(node)) for node in nodes if node.active}
        frames |= {f"{number}.{me}": digest(frame) for me, frame in sent.items()}
        for node in nodes:
            for j in node.expected:
                node.receive(j, sent[j])
        for node in nodes:
            node.mix()
    return frames, [model_of(node) for node in nodes]


class FaultyExchange(FrameExchange):
    """An exchange that sends other bytes in one round."""

    fault = None

    def open(self, round, senders):
        self.now = round
        super().open(round, senders)

    def send(self, frame, receivers):
        if self.now == 3 and self.fault:
            frame, self.fault = self.fault(frame, self.before), None  # once
        elif self.now < 3:
            self.before = frame
        super().send(frame, receivers)


def over_the_network(method, kind="ring", fault=None, before_step=lambda node: None):
    """Outcomes whose value is (frames, final model, repair bytes by round)."""

    def act(process: ProcessInfo):
        with World(process, heartbeat_timeout=20, frame_timeout=20) as world:
            exchange, frames = FaultyExchange(world, 10**6), {}
            exchange.fault = fault if world.rank == 1 else None
            node = node_of(method, world.rank, kind)
            peer = Peer(node, exchange, lambda number, me, frame: frames.update({f"{number}.{me}": digest(frame)}))
            repairs = []
            for _ in range(ROUNDS):
                before_step(node)
                repairs.append(peer.round(lambda: node.step(trainer(node))))
            return frames, model_of(node), repairs, public(node)

    return run_all(act, processes(SIZE))


def public(node):
    """Digests of this node's copies and of its public vector."""
    copies = {str(j): digest(copy.numpy().tobytes()) for j, copy in node.vectors.copies.items()}
    return copies | {str(node.me): digest(node.vectors.public.numpy().tobytes())}


def same_as_in_one_process(outcomes, method, kind="ring"):
    frames, models = in_one_process(method, kind)
    found = {}
    for outcome in outcomes:
        assert outcome.code == 0, outcome.text
        found |= outcome.value[0]
    assert found == frames
    assert [outcome.value[1] for outcome in outcomes] == models


@pytest.mark.parametrize("name", METHODS)
def test_four_processes_send_the_frames_and_end_with_the_models_of_one(name):
    outcomes = over_the_network(METHODS[name])
    same_as_in_one_process(outcomes, METHODS[name])
    assert all(outcome.value[2] == [0] * ROUNDS for outcome in outcomes)


def test_the_same_nodes_are_inactive_on_every_engine():
    same_as_in_one_process(over_the_network(METHODS["malcom"], "intermittent"), METHODS["malcom"], "intermittent")
    frames, _ = in_one_process(METHODS["malcom"], "intermittent")
    assert SIZE < len(frames) < SIZE * ROUNDS  # some were inactive


FAULTS = {
    "repeated": lambda frame, before: before,
    "damaged": lambda frame, before: frame[:-1] + bytes([frame[-1] ^ 4]),
    "cut": lambda frame, before: frame[:-3],
    "foreign": lambda frame, before: b"GET / HTTP/1.1\r\n",
}


@pytest.mark.parametrize("name", ["dsgd", "malcom"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_frame_that_cannot_be_used_is_sent_again_and_nothing_is_lost(name, fault):
    outcomes = over_the_network(METHODS[name], fault=FAULTS[fault])
    same_as_in_one_process(outcomes, METHODS[name])
    assert [outcome.value[2][2] > 0 for outcome in outcomes] == [False, True, False, False]


@pytest.mark.parametrize("kind", ["ring", "intermittent"])
def test_key_frames_repair_a_lost_frame_within_the_round(kind):
    def loses(node):
        """Node 1 sends a frame that no node receives."""
        if node.me == 1 and node.round == 2:
            node.sender.send({name: torch.zeros(leaf.shape) for name, leaf in node.spec})
            node.sender.commit()

    outcomes = over_the_network(METHODS["choco"], kind, before_step=loses)
    assert [outcome.code for outcome in outcomes] == [0] * SIZE, outcomes
    repairs = [outcome.value[2] for outcome in outcomes]
    assert any(sum(bytes_) > 0 for bytes_ in repairs)
    assert all(bytes_[-1] == 0 for bytes_ in repairs)  # repaired
    public_vectors = {str(rank): outcome.value[3][str(rank)] for rank, outcome in enumerate(outcomes)}
    for outcome in outcomes:  # every copy equals its public vector again
        assert all(public_vectors[j] == found for j, found in outcome.value[3].items())


@pytest.mark.parametrize("name", ["dsgd", "malcom"])
def test_a_frame_that_stays_damaged_is_left_out_and_the_link_heals_when_it_is_whole_again(name):
    def act(process: ProcessInfo):
        with World(process, heartbeat_timeout=20, frame_timeout=20) as world:

            class Garbled(FrameExchange):
                def send(self, frame, receivers):
                    garbled = world.rank == 1 and self._round in (2, 3)
                    super().send(b"\0" * 40 if garbled else frame, receivers)

            node = node_of(METHODS[name], world.rank)
            peer = Peer(node, Garbled(world, 10**6))
            for _ in range(ROUNDS):
                peer.round(lambda: peer.node.step(trainer(peer.node)))
            return node.round, node.watch.left_out, node.watch.reasons

    outcomes = run_all(act, processes(SIZE))
    assert [outcome.code for outcome in outcomes] == [0] * SIZE, outcomes
    assert [outcome.value[0] for outcome in outcomes] == [ROUNDS] * SIZE
    assert [outcome.value[1] for outcome in outcomes] == [{"1": 2}, {}, {"1": 2}, {}]
    assert "round 3: " in outcomes[0].value[2]["1"]


# Whole runs


def task_of(seed=0, nodes=SIZE):
    """Digits, two classes a node, a small network."""
    found = data.load("digits")
    key = Key(seed)
    parts = data.partition(found.train_y, "classes:4", nodes, key.fold("partition"))
    model = models.build("mlp", found, key.fold("model"))
    local = fb.LocalSGD(lr=0.1, batch_size=20, steps=2)
    return fb.simulation.Task(model, found.train_x, found.train_y, parts, found.test_x, found.test_y, local)


SCHEDULE = fb.simulation.Schedule(rounds=7, evaluate_every=3, checkpoint_every=2, processes=1)
WHOLE = fb.learn.Malcom(FOUR_BITS, gamma=0.5, regulariser=fb.learn.L1(0.01))


def run_of_one(folder, kind="ring"):
    return fb.simulation.GossipRun(task_of(), WHOLE, network(kind), SCHEDULE, KEY, folder).run()


def runs_of_four(folder, kind="ring", die=None, method=lambda rank: WHOLE, infos=None):
    def act(process: ProcessInfo):
        with World(process, 20, 20) as world:
            return of_node(process, world)

    def of_node(process, world):
        run = DistributedRun(task_of(), method(process.rank), network(kind), SCHEDULE, KEY, folder, world)
        if die:
            taken = run.node.step

            def step(train):
                if (process.rank, run.node.round) == die:
                    os._exit(9)
                return taken(train)

            run.node.step = step
        result = run.run()
        return digest(result.models.numpy().tobytes()), len(result.reports), run.node.round

    return run_all(act, infos or processes(SIZE))


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["round"]: {k: v for k, v in line.items() if k != "seconds"} for line in lines if line["accuracy"]}


def same_run(folder, one, outcomes, alone):
    assert [outcome.code for outcome in outcomes] == [0] * SIZE, outcomes
    assert outcomes[0].value[0] == digest(one.models.numpy().tobytes())
    assert (folder / "ledger.jsonl").read_text() == (alone / "ledger.jsonl").read_text()
    assert metrics(folder) == metrics(alone) and list(metrics(folder)) == [3, 6, 7]


@pytest.mark.parametrize("kind", ["ring", "intermittent"])
def test_a_run_of_four_processes_has_the_files_of_one(tmp_path, kind):
    one = run_of_one(tmp_path / "one", kind)
    same_run(tmp_path / "four", one, runs_of_four(tmp_path / "four", kind), tmp_path / "one")


def test_a_run_that_lost_a_node_resumes_from_the_common_round_to_the_same_end(tmp_path):
    one = run_of_one(tmp_path / "one")
    first = runs_of_four(tmp_path / "four", die=(2, 5))
    assert first[2].code == 9 and all(outcome.code == 1 for outcome in (*first[:2], first[3]))
    assert all("node 2 was lost" in outcome.text for outcome in (*first[:2], first[3]))
    # one node has a checkpoint that the others lack, and another's newest is damaged: 2 is what all have
    damaged = tmp_path / "four" / "checkpoints" / "node-0001" / "round-00000004.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    same_run(tmp_path / "four", one, runs_of_four(tmp_path / "four"), tmp_path / "one")


def test_nodes_without_a_common_round_are_an_error(tmp_path):
    runs_of_four(tmp_path / "four", die=(2, 5))
    shutil.rmtree(tmp_path / "four" / "checkpoints" / "node-0003")
    for outcome in runs_of_four(tmp_path / "four"):
        assert outcome.code == 1
        assert "no common round" in outcome.text and "node 3 has none" in outcome.text


def test_a_run_that_failed_before_the_first_common_checkpoint_begins_again(tmp_path):
    one = run_of_one(tmp_path / "one")
    runs_of_four(tmp_path / "four", die=(2, 3))
    shutil.rmtree(tmp_path / "four" / "checkpoints" / "node-0003")  # as if it had died while the others wrote theirs
    same_run(tmp_path / "four", one, runs_of_four(tmp_path / "four"), tmp_path / "one")


def test_no_node_removes_a_checkpoint_before_all_have_a_later_one(tmp_path):
    """On the path 1, 0, 2, 3, 4, node 4 writes slowly; node 1 could be one checkpoint ahead."""
    path = fb.topology.graph(5, [(0, 1), (0, 2), (2, 3), (3, 4)])
    often = fb.simulation.Schedule(rounds=5, evaluate_every=5, checkpoint_every=1, processes=1)

    def act(process):
        with World(process, 20, 20) as world:
            run = DistributedRun(task_of(nodes=5), WHOLE, path, often, KEY, tmp_path, world)
            write = run._checkpoints.write

            def watched(tensors, note):
                if process.rank == 4:
                    time.sleep(0.2)
                write(tensors, note)
                return newest_common_round(
                    [NodeCheckpoints(tmp_path / "checkpoints", rank).describe() for rank in range(5)]
                )

            run._checkpoints.write = watched
            return len(run.run().reports)

    assert [outcome.value for outcome in run_all(act, processes(5))] == [1, 0, 0, 0, 0]


def test_the_common_round_is_the_newest_of_all_or_the_start_before_second_checkpoints():
    assert newest_common_round(["[]", "[]"]) == newest_common_round(["[5]", "[]"]) == 0
    assert newest_common_round(["[10, 5]", "[5]"]) == newest_common_round(["[10, 5]", "[5, 0]"]) == 5
    for lost in (["[10, 5]", "[]"], ["[20, 15]", "[10, 5]"]):
        with pytest.raises(DesyncError, match="no common round"):
            newest_common_round(lost)


def test_wrong_sizes_and_methods_are_errors_on_every_rank(tmp_path):
    for outcome in runs_of_four(None, infos=processes(SIZE + 1)):
        assert outcome.code == 1
        assert "the network has 4 nodes and torchrun started 5 processes" in outcome.text
    other = fb.learn.Choco(FOUR_BITS, gamma=0.5)
    for outcome in runs_of_four(None, method=lambda rank: other if rank == 1 else WHOLE):
        assert outcome.code == 1
        assert (
            "their method differs: nodes 0, 2, 3 have malcom(" in outcome.text and "node 1 has choco(" in outcome.text
        )
