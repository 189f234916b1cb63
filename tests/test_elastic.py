"""OuterStep with Elastic, among real processes: ranks die and join, and all that are there have the same bits."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import fewbits as fb
from fewbits.distributed import Elastic, OuterStep, RankChange, Replicas, Streaming
from fewbits.engines.distributed import ProcessInfo
from fewbits.engines.distributed.elastic import elastic_ranks
from fewbits.engines.distributed.elastic.decisions import Decisions
from fewbits.engines.distributed.elastic.quorum_group import QuorumGroup
from fewbits.errors import FewbitsError
from nodes import Outcome, run_all
from torch_ranks import digest, inner_step, net

METHOD = "lbgm+topk@feedback=outside"  # look-back vectors at both ends, residuals at the sender
LAST = 12  # inner steps


@pytest.fixture(autouse=True)
def loopback(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


@pytest.fixture
def store():
    """A store that outlives the ranks, in a process of its own: a fork beside its threads may inherit a locked lock."""
    mine, told = os.pipe()
    host = os.fork()
    if not host:
        with contextlib.suppress(BaseException):
            held = dist.TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=20), wait_for_workers=False)  # type: ignore[attr-defined]
            os.write(told, str(held.port).encode())
            signal.pause()
        os._exit(1)
    port = int(os.read(mine, 16))
    os.close(mine)
    os.close(told)
    yield dist.TCPStore("127.0.0.1", port, None, False, timedelta(seconds=20), wait_for_workers=False)  # type: ignore[attr-defined]
    os.kill(host, signal.SIGKILL)
    os.waitpid(host, 0)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Run:
    """One rank of a run: options, what happens to it and when, and what it ends with."""

    def __init__(self, store: Any, size: int, **options: Any) -> None:
        self.address, self.size, self.options = f"127.0.0.1:{store.port}", size, options

    def client(self) -> Any:
        """A connection of this process's own."""
        host, _, port = self.address.partition(":")
        return dist.TCPStore(host, int(port), None, False, timedelta(seconds=20), wait_for_workers=False)  # type: ignore[attr-defined]

    def wait(self, key: str) -> None:
        """Wait for a text in the store."""
        shared = self.client()
        wait_for(lambda: shared.check([key if key == "dead" else f"fewbits/elastic//{key}"]))

    def begin(self, rank: int, model: nn.Module | None = None, **more: Any) -> tuple[nn.Module, OuterStep]:
        model = model or net(seed=rank)  # the lowest rank's values are sent to all
        options = {"method": METHOD, "every": 2, "timeout": 10.0, **self.options, **more}
        chosen = {
            name: options.pop(name) for name in ("min_ranks", "heartbeat_timeout", "run", "ranks") if name in options
        }
        chosen = {"heartbeat_timeout": 5.0, "ranks": self.size, **chosen}
        return model, OuterStep(model, group=Elastic(rank, store=self.address, **chosen), **options)

    def train(self, rank: int, until: int = LAST, at: dict[int, Callable[[], None]] | None = None, **more: Any) -> list:
        """Train until a step; `at` has what happens before an inner step."""
        model, outer = self.begin(rank, **more)
        return self.go_on(rank, model, outer, until, at)

    def go_on(self, rank: int, model: nn.Module, outer: OuterStep, until: int, at: Any = None) -> list:
        while outer.steps < until:
            (at or {}).get(outer.steps, lambda: None)()
            inner_step(model, rank, outer.steps)
            outer.step()
        return [digest(model), outer.sent_bytes, outer.received_bytes, [list(change) for change in outer.changes]]


@pytest.fixture(autouse=True, scope="module")
def kernels():
    """Load what forked processes need."""
    torch.set_num_threads(1)
    simulated(2, [], until=4)


def processes(*ranks: int) -> list[ProcessInfo]:
    return [ProcessInfo(rank, 100, "127.0.0.1", 1) for rank in ranks]


def wait_for(there: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not there():
        assert time.monotonic() < end
        time.sleep(0.01)


def changes(outcome: Outcome) -> list[RankChange]:
    found = [RankChange(n, tuple(joined), left, tuple(ranks)) for n, joined, left, ranks in outcome.value[3]]
    return [change._replace(left={int(rank): reason for rank, reason in change.left.items()}) for change in found]


def simulated(size: int, script: list[RankChange], until: int = LAST, **options: Any) -> dict[int, list]:
    """What one process makes of the same ranks."""
    options = {"method": METHOD, "every": 2, **options}
    models = {rank: net(seed=rank) for rank in range(size)}
    replicas = Replicas(list(models.values()), **options)
    taken, script = 0, list(script)
    for step in range(until):
        while script and script[0].exchanges == taken:
            change = script.pop(0)
            for rank in change.left:
                replicas.leave(rank)
                del models[rank]
            for rank in change.joined:
                models[rank] = net(seed=rank)
                replicas.join(models[rank], rank)
            models = dict(sorted(models.items()))
        for rank, model in models.items():
            inner_step(model, rank, step)
        taken += replicas.step()
    assert not script
    ledgers = replicas.ledgers
    return {
        rank: [digest(model), ledger.frame_bytes["up"], ledger.frame_bytes["down"]]
        for (rank, model), ledger in zip(models.items(), ledgers, strict=True)
    }


def check_same(outcomes: dict[int, Outcome], size: int, left: set[int], joined: set[int], **options: Any) -> None:
    """All that are there have the bits and the bytes of one process that plays the same ranks."""
    assert [outcome.code for outcome in outcomes.values()] == [0] * len(outcomes), outcomes
    script = changes(outcomes[min(set(outcomes) - joined)])
    assert {rank for change in script for rank in change.left} == left
    assert {rank for change in script for rank in change.joined} == joined
    expected = simulated(size, script, **options)
    assert {rank: outcome.value[:3] for rank, outcome in outcomes.items()} == expected


@pytest.mark.parametrize("streaming", [Streaming(), Streaming(2)], ids=["whole", "fragments"])
def test_a_rank_dies_and_another_takes_its_number_and_all_have_the_bits_of_one_process(store, streaming, tmp_path):
    run = Run(store, 3, streaming=streaming)
    dead = tmp_path / "dead"

    def act(process: ProcessInfo) -> list:
        joins = process.rank == 12
        if joins:
            wait_for(dead.exists)
        if process.rank == 2:
            return run.train(2, at={5: lambda: (dead.touch(), die())})  # type: ignore[dict-item]
        model, outer = run.begin(process.rank % 10)
        if not joins:
            run.go_on(process.rank, model, outer, 6)
            while len(outer.ranks) < 3 and outer.steps < 200:
                run.go_on(process.rank, model, outer, outer.steps + 1)
                time.sleep(0.02)
        return [*run.go_on(process.rank % 10, model, outer, outer.steps + 5), outer.steps]

    outcomes = run_all(act, processes(0, 1, 2, 12))
    assert outcomes[2].code == -signal.SIGKILL
    left = {0: outcomes[0], 1: outcomes[1], 2: outcomes[3]}
    last = outcomes[0].value[4]
    assert [outcome.value[4] for outcome in left.values()] == [last] * 3
    check_same(left, 3, {2}, {2}, streaming=streaming, until=last)


def dying(owner: Any, name: str, calls: int, wait: float = 0.0, after: bool = False) -> None:
    """Let this process die at a call of a method."""
    inner, left = getattr(owner, name), [calls]

    @functools.wraps(inner)
    def method(*args: Any) -> Any:
        left[0] -= 1
        if left[0]:
            return inner(*args)
        time.sleep(wait)
        found = inner(*args) if after else None
        die()
        return found

    setattr(owner, name, method)


@pytest.mark.parametrize(
    ("owner", "name", "calls", "wait", "after"),
    [
        (QuorumGroup, "gather", 4, 0, False),  # the first is a greeting
        (QuorumGroup, "_send", 15, 0, True),  # the third of the four sends of an exchange
        (Decisions, "vote", 3, 0, False),
        (Decisions, "_counted", 3, 0, True),
        (Decisions, "_counted", 3, 0.2, True),
    ],
    ids=["before it sends", "while it sends", "before it votes", "after its vote", "as the last to vote"],
)
def test_a_rank_dies_in_the_middle_of_an_exchange_and_the_others_make_it_anew(store, owner, name, calls, wait, after):
    run = Run(store, 3)

    def act(process: ProcessInfo) -> list:
        if process.rank == 2:
            dying(owner, name, calls, wait, after)
        return run.train(process.rank)

    first, second, dead = run_all(act, processes(0, 1, 2))
    assert dead.code == -signal.SIGKILL
    check_same({0: first, 1: second}, 3, {2}, set())
    assert "rank 2 was lost: " in changes(first)[0].left[2]
    assert changes(first)[0].exchanges == 2 or (after and name == "_counted" and not wait)  # its frames may count


def test_two_ranks_die_at_once_the_lowest_among_them(store):
    """Buffers of integers are then those of another rank."""
    run = Run(store, 4)

    def act(process: ProcessInfo) -> list:
        return run.train(process.rank, at={5: die} if process.rank in (0, 2) else None)

    zero, one, two, three = run_all(act, processes(0, 1, 2, 3))
    assert zero.code == two.code == -signal.SIGKILL
    check_same({1: one, 3: three}, 4, {0, 2}, set())


def test_the_sender_of_a_snapshot_dies_and_the_newcomer_gets_it_from_another(store):
    run = Run(store, 3)

    def act(process: ProcessInfo) -> list:
        if process.rank == 0:
            dying(QuorumGroup, "send", 2)  # the first has the values for the start
        if process.rank == 5:
            run.wait("quorum/0")
        model, outer = run.begin(process.rank)
        while process.rank != 5 and outer.ranks != (1, 2, 5):
            run.go_on(process.rank, model, outer, outer.steps + 1)
            time.sleep(0.02)
        return [*run.go_on(process.rank, model, outer, outer.steps + 5), outer.steps]

    outcomes = run_all(act, processes(0, 1, 2, 5))
    assert outcomes[0].code == -signal.SIGKILL
    left = {1: outcomes[1], 2: outcomes[2], 5: outcomes[3]}
    check_same(left, 3, {0, 5}, {5}, until=outcomes[1].value[4])
    assert changes(outcomes[1])[1].left[5] == "rank 5 got no snapshot and waits again"


def test_a_newcomer_that_does_not_fit_reads_why_and_the_run_goes_on(store):
    run = Run(store, 2)

    def act(process: ProcessInfo) -> Any:
        if process.rank < 2:
            model, outer = run.begin(process.rank)
            shared = run.client()
            while not shared.check(["until"]):
                if process.rank == 0 and shared.add("refused", 0) == 5:
                    shared.set("until", str(4 * (outer.steps // 4) + 8))
                run.go_on(process.rank, model, outer, outer.steps + 1)
                time.sleep(0.01)
            return [*run.go_on(process.rank, model, outer, int(shared.get("until"))), outer.steps]
        run.wait("quorum/0")
        wide = nn.Sequential(nn.Linear(12, 17))
        seen = []
        for more in ({"method": "topk"}, {"model": wide}, {"every": 3}, {"rank": 1}, {}):
            if not more:
                fb.__version__ = "0.0.9"
            seen.append(refusal(lambda more=more: run.begin(**{"rank": 7, **more})))
            run.client().add("refused", 1)
        return seen

    outcomes = run_all(act, processes(0, 1, 2))
    check_same(dict(enumerate(outcomes[:2])), 2, set(), set(), until=outcomes[0].value[4])
    begin, (method, model, every, rank, version) = "DesyncError: rank 7 does not fit the run, their", outcomes[2].value
    assert method == f"{begin} method differs: the run has {METHOD}; it has topk"
    assert model == f"{begin} model differs: the run has 0.weight, float32 [16, 12]; it has 0.weight, float32 [17, 12]"
    assert every == f"{begin} every differs: the run has 2; it has 3"
    assert version == f"{begin} version of fewbits differs: the run has {fb.__version__}; it has 0.0.9"
    assert rank.startswith("LocalError: Elastic: rank 1 is in the run already (process ")


@pytest.mark.parametrize("joins", [True, False])
def test_fewer_ranks_than_needed_wait_for_another_of_the_same_number_or_end_with_a_sentence(store, joins):
    run = Run(store, 2, min_ranks=2, timeout=10.0 if joins else 4.0)

    def act(process: ProcessInfo) -> Any:
        if process.rank == 11:
            run.wait("dead")
            return run.train(1) if joins else None
        return run.train(process.rank, at={5: lambda: (run.client().set("dead", ""), die())} if process.rank else None)  # type: ignore[dict-item]

    one, dead, newcomer = run_all(act, processes(0, 1, 11))
    assert dead.code == -signal.SIGKILL
    if joins:
        check_same({0: one, 1: newcomer}, 2, {1}, {1})
    else:
        assert one.error == "PeerLostError"
        assert (
            "ranks [0] are left, fewer than min_ranks=2, and nobody has joined within 4 s: rank 1 was lost" in one.text
        )


@pytest.mark.parametrize("how", ["stopped", "late"])
def test_a_rank_that_is_silent_is_left_out_and_reads_so_when_it_wakes(store, how):
    run = Run(store, 3, heartbeat_timeout=4.0)

    def act(process: ProcessInfo) -> list:
        def sleep() -> None:
            if how == "late":  # with heartbeats
                run.wait("quorum/1")
            else:
                os.kill(os.getpid(), signal.SIGSTOP)

        model, outer = run.begin(process.rank)

        def wait(seconds: float) -> None:
            if how == "late" and process.rank == 0:  # for rank 1 alone: a busy machine may take longer otherwise
                outer._elastic._session.timeout = seconds  # type: ignore[union-attr]

        at = {5: sleep} if process.rank == 1 else {5: lambda: wait(0.5), 6: lambda: wait(10)}
        return run.go_on(process.rank, model, outer, LAST, at)

    def disturb(pids: list[int]) -> None:
        wait_for(lambda: store.check(["fewbits/elastic//quorum/1"]))
        os.kill(pids[1], signal.SIGCONT)

    first, silent, third = run_all(act, processes(0, 1, 2), disturb)
    check_same({0: first, 2: third}, 3, {1}, set())
    why = "rank 1 was lost: no heartbeat for 4 s" if how == "stopped" else "rank 1 has sent nothing for 0.5 s"
    assert changes(first)[0].left == {1: why}
    assert silent.error == "PeerLostError"
    assert f"the others go on without rank 1: {why}. Make OuterStep anew to join again" in silent.text


def test_a_rank_that_refuses_its_own_values_raises_alone_and_goes_on_after_its_repair(store):
    run = Run(store, 2)

    def act(process: ProcessInfo) -> list:
        model, outer = run.begin(process.rank)
        run.go_on(process.rank, model, outer, 5)
        inner_step(model, process.rank, 5)
        seen = ""
        if process.rank == 1:
            value = model[0].weight.data[0, 0].clone()  # type: ignore[index]
            model[0].weight.data[0, 0] = torch.nan  # type: ignore[index]
            seen = refusal(outer.step)
            model[0].weight.data[0, 0] = value  # type: ignore[index]
        outer.step()
        return [*run.go_on(process.rank, model, outer, LAST), seen]

    outcomes = run_all(act, processes(0, 1))
    check_same(dict(enumerate(outcomes)), 2, set(), set())
    assert [outcome.value[4][:44] for outcome in outcomes] == ["", "LocalError: Sender.send: 0.weight has 1 NaN "]


def test_frames_that_travel_while_a_rank_dies_and_one_that_leaves(store):
    streaming = Streaming(delay=1)
    run = Run(store, 4, streaming=streaming, every=3)

    def plain(seed: int) -> nn.Module:
        model = net(seed)
        return nn.Sequential(model[0], model[2], model[3])  # type: ignore[index]

    def act(process: ProcessInfo) -> Any:
        rank = process.rank
        model, outer = run.begin(rank, model=plain(rank))
        if rank == 3:
            run.go_on(rank, model, outer, 4)
            outer.leave()
            return refusal(lambda: run.go_on(rank, model, outer, 9))
        run.go_on(rank, model, outer, 13, {9: die} if rank == 1 else None)
        values = [float(x.double().sum()) for x in outer.values().values()]
        return [digest(model), values, outer.sent_bytes, [list(change) for change in outer.changes]]

    zero, dead, two, gone = run_all(act, processes(0, 1, 2, 3))
    assert dead.code == -signal.SIGKILL and "rank 3 has left the run" in gone.value
    assert changes(zero) == changes(two) and [change.exchanges for change in changes(zero)] == [1, 2]
    models = {rank: plain(rank) for rank in range(4)}
    replicas = Replicas(list(models.values()), METHOD, every=3, streaming=streaming)
    for step in range(13):
        for rank in {5: [3], 8: [1]}.get(step, []):
            replicas.leave(rank)
            del models[rank]
        for rank, model in models.items():
            inner_step(model, rank, step)
        replicas.step()
    values = [float(x.double().sum()) for x in replicas.values().values()]
    assert [zero.value[:3], two.value[:3]] == [
        [digest(model), values, sent] for model, sent in zip(models.values(), replicas.sent_bytes, strict=True)
    ]


def test_a_run_begins_again_from_the_states_of_the_ranks_that_were_there(store):
    run = Run(store, 3)

    def act(process: ProcessInfo) -> list:
        rank = process.rank
        model, outer = run.begin(rank)
        run.go_on(rank, model, outer, 8, {3: die} if rank == 1 else None)
        state, values = outer.state_dict(), model.state_dict()
        outer.leave()
        again, following = run.begin(rank, run="again", ranks=2)
        wrong = refusal(lambda: following.load_state_dict({**state, "size": 3}))
        again.load_state_dict(values)
        following.load_state_dict(state)
        return [*run.go_on(rank, again, following, LAST)[:3], [], wrong]

    zero, dead, two = run_all(act, processes(0, 1, 2))
    assert dead.code == -signal.SIGKILL and "the size is 2; that of the state is 3" in zero.value[4]
    expected = simulated(3, [RankChange(1, (), {1: ""}, (0, 2))])
    assert {0: zero.value[:3], 2: two.value[:3]} == expected


@pytest.mark.parametrize(("change", "words"), [("damaged", "checksum is"), ("long", "rank 0 announces")])
def test_a_newcomer_refuses_a_snapshot_that_is_damaged_or_too_long_and_the_run_goes_on(store, change, words):
    run = Run(store, 2)

    def act(process: ProcessInfo) -> list:
        if process.rank == 0:
            write = elastic_ranks.write_snapshot

            def wrong(replica: Any) -> memoryview:
                frame = bytearray(write(replica))
                frame[len(frame) // 2] ^= 1
                return memoryview(frame if change == "damaged" else bytearray(1 << 22))

            elastic_ranks.write_snapshot = wrong  # type: ignore[assignment]
        if process.rank == 5:
            run.wait("quorum/0")
        return run.train(process.rank, model=net(), at={3: lambda: run.wait("member/3")})

    zero, one, newcomer = run_all(act, processes(0, 1, 5))
    assert newcomer.error == "WireError" and words in newcomer.text
    assert zero.value[0] == one.value[0]  # the sender of the snapshot may know of the newcomer only that it has left
    assert changes(zero)[-1].left == changes(one)[-1].left == {5: "rank 5 left"}
    assert changes(zero)[-1].ranks == changes(one)[-1].ranks == (0, 1)


@pytest.mark.parametrize(("name", "calls"), [("receive", 1), ("_receive", 11)], ids=["before its length", "after it"])
def test_one_of_two_newcomers_dies_before_it_has_its_snapshot(store, name, calls):
    """The sender of the snapshots then does not know whether the other has it."""
    run = Run(store, 2)

    def act(process: ProcessInfo) -> list:
        if process.rank == 6:
            dying(QuorumGroup, name, calls)
        if process.rank > 1:
            run.wait("quorum/0")
        return run.train(process.rank, at={3: lambda: (run.wait("member/3"), run.wait("member/4"))})  # type: ignore[dict-item]

    *outcomes, dead = run_all(act, processes(0, 1, 5, 6))
    assert dead.code == -signal.SIGKILL and [outcome.code for outcome in outcomes] == [0] * 3, outcomes
    expected = simulated(2, changes(outcomes[1]))
    assert {outcome.value[0] for outcome in outcomes} == {values[0] for values in expected.values()}
    assert list(expected) == [0, 1, 5]


def test_ranks_that_differ_or_are_missing_at_the_start_end_with_one_sentence(store):
    def act(process: ProcessInfo) -> list[str]:
        odd = process.rank == 1
        run = Run(store, 2, timeout=5.0)
        seen = [refusal(lambda: run.begin(process.rank, every=3 if odd else 2, run="a"))]
        if odd:
            return seen
        alone = Run(store, 3, timeout=0.5)
        seen.append(refusal(lambda: alone.begin(0, run="b")))
        end = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)  # type: ignore[attr-defined]
        lost = Run(end, 1)
        model, outer = lost.begin(0)
        lost.go_on(0, model, outer, 1)
        return [*seen, refusal(outer.average), refusal(lambda: (outer.step(), outer.step()))]

    zero, one = run_all(act, processes(0, 1))
    assert (
        zero.value[0]
        == one.value[0]
        == ("DesyncError: the ranks were not started for the same run, their every differs: rank 0 has 2; rank 1 has 3")
    )
    assert zero.value[1] == "PeerLostError: the run begins with 3 ranks, and after 0.5 s there are [0]"
    assert "LocalError: OuterStep: without a partner all ranks have the same model" in zero.value[2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heartbeat_timeout": 1e-9}, "heartbeat_timeout must be a number in"),
        ({"heartbeat_timeout": 1e300}, "heartbeat_timeout must be a number in"),
        ({"run": "\ud800"}, "run must be a text of printable characters"),
        ({"rank": True}, "rank must be a whole number in 0"),
        ({"store": 5}, "store must be a torch.distributed.TCPStore, or its address as 'host:port'; got 5"),
        ({"store": "10.0.0.1:0"}, "or its address as 'host:port'; got '10.0.0.1:0'"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(fb.LocalError, match=words):
        Elastic(**options)


def refusal(make: Callable[[], object]) -> str:
    """The error's class and sentence."""
    try:
        make()
    except FewbitsError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"
