"""Engine `distributed`: frames arrive whole; when one node ends, all end soon with the same sentence."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

from fewbits.engines.distributed import FrameExchange, ProcessInfo, World, heartbeat
from fewbits.engines.distributed.frame_exchange import KEY_FRAME
from fewbits.engines.distributed.handshake import exchange_facts
from fewbits.errors import LocalError
from fewbits.rng import Key
from nodes import Outcome, free_port, other_program, processes, run_all

ROUNDS = 6
CODEC = "flat(chain(Raw()))"


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(heartbeat, "GRACE", 1.0)
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.2)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


def frame(rank: int, round: int) -> bytes:
    """This node's frame in this round: 1 byte to 400 kB of noise."""
    size = 1 + 4 * 10 ** ((rank + round) % 6)
    return Key(5).fold(rank, round).bits(1 + size // 4).tobytes()[:size]


def ring(process: ProcessInfo) -> set[int]:
    return {(process.rank - 1) % process.size, (process.rank + 1) % process.size} - {process.rank}


def rounds(world: World, fault=lambda world, round: None, limit=10**6) -> int:
    """Run ROUNDS rounds on a ring; returns the received bytes."""
    exchange, total = FrameExchange(world, limit), 0
    for round in range(ROUNDS):
        exchange.open(round, ring(world.process))
        fault(world, round)
        exchange.send(frame(world.rank, round), ring(world.process))
        for found in exchange.receive():
            assert bytes(found.frame) == frame(found.peer, round)
            total += len(found.frame)
        exchange.answer(ring(world.process), {})
        assert exchange.requests() == {}
    return total


def run_ring(fault=lambda world, round: None, size=4, limit=10**6, **options):
    """All nodes of a run with this fault."""

    def act(process: ProcessInfo) -> int:
        with World(process, **({"heartbeat_timeout": 20.0, "frame_timeout": 20.0} | options)) as world:
            return rounds(world, fault, limit)

    return run_all(act, processes(size))


def check_failed(outcomes: list[Outcome], words: str, but: tuple[int, ...] = ()) -> None:
    """Check that all nodes but these failed with these words."""
    for rank, outcome in enumerate(outcomes):
        if rank not in but:
            assert outcome.code not in (0, 3), outcome
            assert words in outcome.text, outcome


@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_neighbour_receives_the_frame_that_was_sent(size):
    outcomes = run_ring(size=size)
    assert [outcome.text for outcome in outcomes] == [""] * size
    sizes = [[len(frame(rank, round)) for round in range(ROUNDS)] for rank in range(size)]
    for process, outcome in zip(processes(size), outcomes, strict=True):
        assert outcome.value == sum(sum(sizes[peer]) for peer in ring(process))


def test_a_node_may_be_inactive_and_may_get_a_request_for_a_key_frame():
    def act(process):
        with World(process, heartbeat_timeout=20, frame_timeout=20) as world:
            exchange, log = FrameExchange(world, 100), []
            for round in range(4):
                others = {rank for rank in range(3) if rank != round} - {process.rank}
                others = others if process.rank != round else set()
                exchange.open(round, others)
                exchange.send(b"x" * (1 + process.rank), others)
                found = [[found.peer, len(found.frame)] for found in exchange.receive()]
                exchange.answer(others, {1: KEY_FRAME} if round == 3 else {})
                log.append([found, list(exchange.requests().items())])
            return log, exchange.sent_bytes

    first, middle, last = run_all(act, processes(3))
    assert first.value == [[[[], []], [[[2, 3]], []], [[[1, 2]], []], [[[1, 2], [2, 3]], []]], 4 * (8 + 1 + 1)]
    assert middle.value[0][-1] == [[[0, 1], [2, 3]], [[0, KEY_FRAME], [2, KEY_FRAME]]]
    assert last.value[1] == 4 * (8 + 3 + 1)


def test_nodes_of_different_runs_see_both_descriptions():
    def act(process):
        codec = "flat(chain(Sign()))" if process.rank == 2 else CODEC
        with World(process, heartbeat_timeout=20) as world:
            world.agree({"codec": CODEC}, {"path": str(process.rank)})
            return [found["path"] for found in world.agree({"codec": codec})]

    outcomes = run_all(act, processes(4))
    check_failed(outcomes, "codec differs: nodes 0, 1, 3 have flat(chain(Raw())); node 2 has flat(chain(Sign()))")


def test_a_node_that_dies_is_named_by_all_others():
    def dies(world, round):
        if world.rank == 2 and round == 3:
            os._exit(9)

    outcomes = run_ring(dies)
    check_failed(outcomes, "node 2 was lost", but=(2,))


def test_a_node_that_raises_is_quoted_by_all_others():
    def raises(world, round):
        if world.rank == 1 and round == 2:
            raise LocalError("conv1.weight has 3 NaN values")

    check_failed(run_ring(raises), "conv1.weight has 3 NaN values")


@pytest.mark.parametrize(
    ("stopped", "words"),
    [(3, "node 3 was lost: no heartbeat for 4 s"), (0, "node 0 (with the store")],
)
def test_a_stopped_node_is_named_by_all_others(stopped, words):
    def stops(world, round):
        if world.rank == stopped and round == 1:
            os.kill(os.getpid(), signal.SIGSTOP)

    def disturb(pids):
        """Kill the stopped node once the others have ended."""
        for pid in pids[:stopped] + pids[stopped + 1 :]:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        os.kill(pids[stopped], signal.SIGKILL)

    def act(process):
        with World(process, heartbeat_timeout=20, frame_timeout=20) as world:
            world._heartbeat._timeout = world._watchdog._timeout = 4.0  # not before: a busy machine joins slowly
            return rounds(world, stops)

    check_failed(run_all(act, processes(4), disturb), words, but=(stopped,))


def test_a_live_node_that_sends_nothing_is_named_by_all():
    def waits(world, round):
        if world.rank == 2 and round == 2:
            time.sleep(30)

    def act(process):
        with World(process, heartbeat_timeout=20, frame_timeout=3.0) as world:
            return rounds(world, waits)

    check_failed(run_all(act, processes(4)), "node 2 is alive but has sent nothing for 3 s")


def test_a_node_that_does_not_join_is_named_by_all_others():
    def act(process):
        with World(process, heartbeat_timeout=8):
            return 0

    check_failed(run_all(act, processes(4)[:3]), "node 3 did not join within 8 s")


def test_two_processes_with_one_rank_are_an_error():
    def act(process):
        with World(process, heartbeat_timeout=10):
            return 0

    infos = processes(3)
    check_failed(run_all(act, [infos[0], infos[1], infos[1]]), "two processes have the node number 1")


def test_a_late_second_process_of_a_node_does_not_end_the_run():
    infos = processes(2)

    def act(process):
        if process.size == 1:  # the second node 1, which starts during the run
            second = ProcessInfo(1, 2, process.host, process.port)
            time.sleep(1.5)
            with World(second, heartbeat_timeout=5):
                return 0
        with World(process, heartbeat_timeout=10) as world:
            time.sleep(3)
            return rounds(world)

    outcomes = run_all(act, [*infos, ProcessInfo(0, 1, infos[0].host, infos[0].port)])
    assert [outcome.code for outcome in outcomes] == [0, 0, 1]
    assert "has begun and already has a node 1" in outcomes[2].text


def test_a_port_in_use_is_named():
    with other_program() as port:

        def act(process):
            with World(process, heartbeat_timeout=2):
                return 0

        outcomes = run_all(act, [ProcessInfo(rank, 2, "127.0.0.1", port) for rank in range(2)])
    assert (outcomes[0].error, outcomes[1].error) == ("LocalError", "PeerLostError")
    assert f"port {port} is in use" in outcomes[0].text
    assert f"127.0.0.1:{port}" in outcomes[1].text


def test_a_missing_store_is_an_error():
    def act(process):
        with World(process, heartbeat_timeout=1):
            return 0

    (outcome,) = run_all(act, [ProcessInfo(1, 2, "127.0.0.1", free_port())])
    assert outcome.error == "PeerLostError"
    assert "finds no rendezvous store" in outcome.text


def test_a_frame_above_the_limit_is_an_error_before_memory_is_allocated():
    outcomes = run_ring(limit=500)
    check_failed(outcomes, "announces a frame of")
    check_failed(outcomes, "1 to 500 are allowed")


def test_after_sigterm_a_run_names_the_node_that_died_before():
    def waits(world, round):
        if world.rank == 2 and round == 1:
            os._exit(9)
        if round == 1:
            time.sleep(30)  # so that no node sees the closed connection

    def act(process):
        with World(process, heartbeat_timeout=20, frame_timeout=20) as world:
            return rounds(world, waits)

    def disturb(pids):
        os.waitid(os.P_PID, pids[2], os.WEXITED | os.WNOWAIT)
        for pid in pids[:2]:
            os.kill(pid, signal.SIGTERM)

    outcomes = run_all(act, processes(3), disturb)
    check_failed(outcomes, "node 2 died without a reason", but=(2,))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"RANK": None}, "missing: ['RANK']"),
        ({"WORLD_SIZE": "four"}, "WORLD_SIZE must be a whole number; got 'four'"),
        ({"RANK": "4"}, "got rank 4 of 4"),
        ({"MASTER_PORT": "99999"}, "port 99999"),
    ],
)
def test_a_bad_environment_is_an_error(changed, words):
    good = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    environment = {name: value for name, value in (good | changed).items() if value is not None}
    with pytest.raises(LocalError) as error:
        ProcessInfo.of(environment)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "nccl"}, "NCCL carries no bytes on the CPU"),
        ({"backend": "smoke"}, "no backend 'smoke'"),
        ({"heartbeat_timeout": 0}, "seconds above 0"),
    ],
)
def test_wrong_arguments_of_a_world_are_errors(options, words):
    with pytest.raises(LocalError, match=words):
        World(processes(1)[0], **options)


def test_the_noise_of_these_tests_is_not_empty():
    assert {len(frame(rank, round)) for rank in range(4) for round in range(ROUNDS)} >= {5, 41, 400_001}
    assert np.frombuffer(frame(3, 2), np.uint8).std() > 60


class HastyStore:
    """A store in which, after a check, the last node joins, reads all facts and reports a failure."""

    failure = None

    def __init__(self):
        self._texts = {}

    def set(self, key, text):
        self._texts[key] = text

    def has(self, *keys):
        found = self._texts.keys() >= set(keys)
        self.set("facts/1/1", '{"method": "another"}')
        self.failure = "node 1 stopped: their method differs"
        return found

    def get(self, keys):
        return [self._texts[key] for key in keys]


def test_a_node_that_is_late_to_read_the_handshake_gives_the_same_error_as_the_others():
    facts = exchange_facts(HastyStore(), ProcessInfo(0, 2, "127.0.0.1", 1), 1, {"method": "ours"}, 20.0)
    assert facts == [{"method": "ours"}, {"method": "another"}]
