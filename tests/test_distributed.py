"""Engine `dist`: frames arrive whole, and whatever ends one node ends all of them with a sentence, soon."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

from fewbits.engines.distributed import Exchange, ProcessInfo, World, life
from fewbits.engines.distributed.exchange import KEY
from fewbits.engines.distributed.handshake import introduce
from fewbits.errors import LocalError
from fewbits.rng import Key
from nodes import Outcome, free_port, places, play, stranger

ROUNDS = 6
CODEC = "flat(chain(Raw()))"


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(life, "GRACE", 1.0)
    monkeypatch.setattr(life, "EVERY", 0.2)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


def frame(rank: int, round: int) -> bytes:
    """What this node sends in this round: 1 byte to 400 kB of noise."""
    size = 1 + 4 * 10 ** ((rank + round) % 6)
    return Key(5).fold(rank, round).bits(1 + size // 4).tobytes()[:size]


def ring(place: ProcessInfo) -> set[int]:
    return {(place.rank - 1) % place.size, (place.rank + 1) % place.size} - {place.rank}


def rounds(world: World, mishap=lambda world, round: None, limit=10**6) -> int:
    """Play ROUNDS rounds on a ring; the bytes received."""
    exchange, total = Exchange(world, limit), 0
    for round in range(ROUNDS):
        exchange.open(round, ring(world.place))
        mishap(world, round)
        exchange.send(frame(world.rank, round), ring(world.place))
        for found in exchange.receive():
            assert bytes(found.frame) == frame(found.peer, round)
            total += len(found.frame)
        exchange.answer(ring(world.place), {})
        assert exchange.asked() == {}
    return total


def node(mishap=lambda world, round: None, size=4, limit=10**6, **options):
    """Every node of a run in which `mishap` befalls."""

    def act(place: ProcessInfo) -> int:
        with World(place, **({"patience": 20.0, "limit": 20.0} | options)) as world:
            return rounds(world, mishap, limit)

    return play(act, places(size))


def reported(outcomes: list[Outcome], words: str, but: tuple[int, ...] = ()) -> None:
    """All nodes but these ended with a failure and the words."""
    for rank, outcome in enumerate(outcomes):
        if rank not in but:
            assert outcome.code not in (0, 3), outcome
            assert words in outcome.text, outcome


@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_neighbour_receives_the_frame_that_was_sent(size):
    outcomes = node(size=size)
    assert [outcome.text for outcome in outcomes] == [""] * size
    sizes = [[len(frame(rank, round)) for round in range(ROUNDS)] for rank in range(size)]
    for place, outcome in zip(places(size), outcomes, strict=True):
        assert outcome.value == sum(sum(sizes[peer]) for peer in ring(place))


def test_a_node_may_be_left_out_of_a_round_and_may_be_asked_for_a_key_frame():
    def act(place):
        with World(place, patience=20, limit=20) as world:
            exchange, heard = Exchange(world, 100), []
            for round in range(4):
                others = {rank for rank in range(3) if rank != round} - {place.rank}
                others = others if place.rank != round else set()
                exchange.open(round, others)
                exchange.send(b"x" * (1 + place.rank), others)
                found = [[found.peer, len(found.frame)] for found in exchange.receive()]
                exchange.answer(others, {1: KEY} if round == 3 else {})
                heard.append([found, list(exchange.asked().items())])
            return heard, exchange.sent_bytes

    first, middle, last = play(act, places(3))
    assert first.value == [[[[], []], [[[2, 3]], []], [[[1, 2]], []], [[[1, 2], [2, 3]], []]], 4 * (8 + 1 + 1)]
    assert middle.value[0][-1] == [[[0, 1], [2, 3]], [[0, KEY], [2, KEY]]]
    assert last.value[1] == 4 * (8 + 3 + 1)


def test_nodes_of_different_runs_are_told_both_descriptions():
    def act(place):
        codec = "flat(chain(Sign()))" if place.rank == 2 else CODEC
        with World(place, patience=20) as world:
            world.agree({"codec": CODEC}, {"path": str(place.rank)})
            return [found["path"] for found in world.agree({"codec": codec})]

    outcomes = play(act, places(4))
    reported(outcomes, "codec differs: nodes 0, 1, 3 have flat(chain(Raw())); node 2 has flat(chain(Sign()))")


def test_a_node_that_dies_is_named_by_all_others():
    def dies(world, round):
        if world.rank == 2 and round == 3:
            os._exit(9)

    outcomes = node(dies)
    reported(outcomes, "node 2 is gone", but=(2,))


def test_a_node_that_raises_is_quoted_by_all_others():
    def raises(world, round):
        if world.rank == 1 and round == 2:
            raise LocalError("conv1.weight has 3 NaN values")

    reported(node(raises), "conv1.weight has 3 NaN values")


@pytest.mark.parametrize(
    ("stopped", "words"),
    [(3, "node 3 is gone: it has given no sign of life for 4 s"), (0, "node 0 (which holds the store")],
)
def test_a_node_that_stops_living_is_named_by_all_others(stopped, words):
    def stops(world, round):
        if world.rank == stopped and round == 1:
            os.kill(os.getpid(), signal.SIGSTOP)

    def meddle(pids):
        """End the one that stopped, once the others have ended."""
        for pid in pids[:stopped] + pids[stopped + 1 :]:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        os.kill(pids[stopped], signal.SIGKILL)

    def act(place):
        with World(place, patience=20, limit=20) as world:
            world._life._patience = world._guard._patience = 4.0  # from here on: a busy machine may be slow to come
            return rounds(world, stops)

    reported(play(act, places(4), meddle), words, but=(stopped,))


def test_a_node_that_lives_and_sends_nothing_is_named_by_all():
    def sleeps(world, round):
        if world.rank == 2 and round == 2:
            time.sleep(30)

    def act(place):
        with World(place, patience=20, limit=3.0) as world:
            return rounds(world, sleeps)

    reported(play(act, places(4)), "node 2 lives, but has sent nothing for 3 s")


def test_a_node_that_does_not_come_is_named_by_all_others():
    def act(place):
        with World(place, patience=8):
            return 0

    reported(play(act, places(4)[:3]), "node 3 did not come within 8 s")


def test_two_nodes_with_one_id_are_told_so():
    def act(place):
        with World(place, patience=10):
            return 0

    where = places(3)
    reported(play(act, [where[0], where[1], where[1]]), "two processes claim to be node 1")


def test_a_late_double_of_a_node_does_not_end_the_run():
    where = places(2)

    def act(place):
        if place.size == 1:  # the double, which comes when the others are under way
            double = ProcessInfo(1, 2, place.host, place.port)
            time.sleep(1.5)
            with World(double, patience=5):
                return 0
        with World(place, patience=10) as world:
            time.sleep(3)
            return rounds(world)

    outcomes = play(act, [*where, ProcessInfo(0, 1, where[0].host, where[0].port)])
    assert [outcome.code for outcome in outcomes] == [0, 0, 1]
    assert "is under way and has its node 1 already" in outcomes[2].text


def test_a_port_in_use_is_named():
    with stranger() as port:

        def act(place):
            with World(place, patience=2):
                return 0

        outcomes = play(act, [ProcessInfo(rank, 2, "127.0.0.1", port) for rank in range(2)])
    assert (outcomes[0].error, outcomes[1].error) == ("LocalError", "GoneError")
    assert f"port {port} is in use" in outcomes[0].text
    assert f"127.0.0.1:{port}" in outcomes[1].text


def test_no_store_at_all_is_a_sentence():
    def act(place):
        with World(place, patience=1):
            return 0

    (outcome,) = play(act, [ProcessInfo(1, 2, "127.0.0.1", free_port())])
    assert outcome.error == "GoneError"
    assert "finds no rendezvous store" in outcome.text


def test_a_frame_above_the_limit_is_refused_before_memory_is_taken():
    outcomes = node(limit=500)
    reported(outcomes, "announces a frame of")
    reported(outcomes, "1 to 500 are expected")


def test_a_run_that_is_told_to_stop_names_the_node_that_died_before():
    def waits(world, round):
        if world.rank == 2 and round == 1:
            os._exit(9)
        if round == 1:
            time.sleep(30)  # so that nobody sees the closed connection

    def act(place):
        with World(place, patience=20, limit=20) as world:
            return rounds(world, waits)

    def meddle(pids):
        os.waitid(os.P_PID, pids[2], os.WEXITED | os.WNOWAIT)
        for pid in pids[:2]:
            os.kill(pid, signal.SIGTERM)

    outcomes = play(act, places(3), meddle)
    reported(outcomes, "node 2 died without a word", but=(2,))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"RANK": None}, "missing: ['RANK']"),
        ({"WORLD_SIZE": "four"}, "WORLD_SIZE must be a whole number; got 'four'"),
        ({"RANK": "4"}, "got rank 4 of 4"),
        ({"MASTER_PORT": "99999"}, "port 99999"),
    ],
)
def test_a_bad_environment_is_a_sentence(changed, words):
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
        ({"patience": 0}, "seconds above 0"),
    ],
)
def test_a_world_that_cannot_be_is_a_sentence(options, words):
    with pytest.raises(LocalError, match=words):
        World(places(1)[0], **options)


def test_the_noise_of_these_tests_is_not_empty():
    assert {len(frame(rank, round)) for rank in range(4) for round in range(ROUNDS)} >= {5, 41, 400_001}
    assert np.frombuffer(frame(3, 2), np.uint8).std() > 60


class Hasty:
    """A board on which, after a look at who has come, the last one comes, another reads all and speaks."""

    words = None

    def __init__(self):
        self._posted = {}

    def post(self, name, text):
        self._posted[name] = text

    def has(self, *names):
        found = self._posted.keys() >= set(names)
        self.post("facts/1/1", '{"method": "another"}')
        self.words = "node 1 stopped: their method differs"
        return found

    def read(self, names):
        return [self._posted[name] for name in names]


def test_a_node_that_is_late_to_read_the_handshake_gives_the_same_error_as_the_others():
    facts = introduce(Hasty(), ProcessInfo(0, 2, "127.0.0.1", 1), 1, {"method": "ours"}, 20.0)
    assert facts == [{"method": "ours"}, {"method": "another"}]
