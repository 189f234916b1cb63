"""Server and Client with nothing but bytes between them: against FedAvg by hand, and when things go wrong."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from every_codec import restamp
from fewbits.codecs import Delta, ErrorFeedback, LookBack, Quantize, RandK, Raw, Sign, TopK, chain, each, flat
from fewbits.coders import Rans
from fewbits.errors import LocalError
from fewbits.federated import Client, Server
from fewbits.learn import FedAdam, Method, ServerSGD
from fewbits.links import StateStore
from fewbits.rng import Key

WEIGHTS = (1.0, 2.0, 5.0)


def model(norm: bool = False) -> nn.Module:
    """The same small model every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        middle = [nn.BatchNorm1d(4)] if norm else []
        return nn.Sequential(nn.Linear(3, 4), *middle, nn.ReLU(), nn.Linear(4, 2))


def train(module: nn.Module, client: int, round: int) -> None:
    """Some change that depends on client, round and the weights: three steps down a random batch."""
    noise = torch.Generator().manual_seed(100 * client + round)
    x, y = torch.randn(8, 3, generator=noise), torch.randint(2, (8,), generator=noise)
    module.train()
    for _ in range(3):
        loss = nn.functional.cross_entropy(module(x), y)
        grads = torch.autograd.grad(loss, [*module.parameters()])
        with torch.no_grad():
            for p, g in zip(module.parameters(), grads, strict=True):
                p -= 0.1 * g


def federation(up, down=Raw(), clients=3, norm=False, store=None, total_weight=None, **options):
    method = replace(Method.of(up, down), **options)
    server = Server(model(norm), method, Key(0), store, total_weight)
    return server, [Client(model(norm), method, Key(1).fold(c), c) for c in range(clients)]


def play(server: Server, clients: list[Client], rounds: int, who=lambda t: (0, 1, 2)) -> None:
    """Rounds in which nothing goes wrong."""
    for t in range(rounds):
        for c in who(t):
            clients[c].receive(server.bundle(c))
            train(clients[c].model, c, t)
            assert server.accept(c, clients[c].reply(), WEIGHTS[c]) is not None
        server.step()


def by_hand(rounds: int, norm: bool = False, who=lambda t: (0, 1, 2)) -> nn.Module:
    """FedAvg as in McMahan et al. 2017, on state_dicts."""
    public = model(norm)
    for t in range(rounds):
        states, chosen = [], who(t)
        for c in chosen:
            local = model(norm)
            local.load_state_dict(public.state_dict())
            train(local, c, t)
            states.append(local.state_dict())
        total = sum(WEIGHTS[c] for c in chosen)
        mean = {
            k: sum(WEIGHTS[c] / total * s[k] for c, s in zip(chosen, states, strict=True))
            for k, v in public.state_dict().items()
            if v.is_floating_point()
        }
        public.load_state_dict(mean, strict=False)
    return public


def close(a: nn.Module, b: nn.Module, atol: float = 1e-5) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        if x.is_floating_point():
            torch.testing.assert_close(x, y, rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("who", [lambda t: (0, 1, 2), lambda t: (t % 3, (t + 1) % 3), lambda t: (t % 3,)])
@pytest.mark.parametrize("up", [Raw(), LookBack(Raw(), 0.0), each(Raw())], ids=repr)
def test_lossless_links_give_fedavg_by_hand(up, who):
    server, clients = federation(up)
    play(server, clients, 6, lambda t: tuple(sorted(who(t))))
    close(server.model, by_hand(6, who=lambda t: tuple(sorted(who(t)))))


def test_running_statistics_are_averaged_as_they_are_whatever_the_codec():
    server, clients = federation(Sign(), norm=True)
    clients[1].receive(server.bundle(1))
    start = {k: v.clone() for k, v in clients[1].model.state_dict().items()}
    train(clients[1].model, 1, 0)
    end = {k: v.clone() for k, v in clients[1].model.state_dict().items()}
    server.accept(1, clients[1].reply(), 2.0)
    server.step()
    for k, v in server.model.state_dict().items():
        if "running" in k:
            torch.testing.assert_close(v, end[k], rtol=0, atol=1e-7)
            assert not torch.equal(v, start[k])
        if "tracked" in k:
            assert int(v) == 0  # integer buffers stay where they are


@pytest.mark.parametrize("down", [Raw(), Delta(chain(Quantize(8), Rans()))], ids=repr)
def test_models_with_running_statistics_work_over_every_downlink(down):
    server, clients = federation(Raw(), down, norm=True)
    play(server, clients, 5, lambda t: (t % 3,))
    if down == Raw():
        close(server.model, by_hand(5, norm=True, who=lambda t: (t % 3,)))


UPLINKS = [
    chain(TopK(0.3), Quantize(4), Rans()),
    ErrorFeedback(chain(TopK(0.3))),
    LookBack(Raw(), 0.9),
    LookBack(chain(TopK(0.5)), 0.9),
    RandK(0.5),
    LookBack(RandK(0.5), 0.9),
    each(Sign()),
]


@pytest.mark.parametrize("up", UPLINKS, ids=repr)
def test_the_server_moves_by_the_mean_of_what_it_decodes(up):
    """The sum in the compressed domain equals the sum of values; clients that were away have other supports."""
    server, clients = federation(up, Delta(Raw()))
    for t in range(6):
        theta, moved = server.flat.params.clone(), torch.zeros_like(server.flat.params)
        chosen = [c for c in range(3) if (t + c) % 3 or c == 0]
        for c in chosen:
            clients[c].receive(server.bundle(c))
            train(clients[c].model, c, t)
            server.accept(c, clients[c].reply(), WEIGHTS[c])
            moved += WEIGHTS[c] * torch.cat([x.reshape(-1) for x in clients[c]._core.up.value.values()])
        server.step()
        expected = theta - moved / sum(WEIGHTS[c] for c in chosen)
        torch.testing.assert_close(server.flat.params, expected, rtol=1e-5, atol=1e-6)
    assert not server.rejected


@pytest.mark.parametrize("up", UPLINKS, ids=repr)
def test_lost_and_damaged_frames_cost_their_round_and_nothing_else(up):
    """Client 1's frames are lost in round 2 and damaged in round 3: as if it had not been sampled then."""

    def played(harm: bool) -> Server:
        server, clients = federation(up)
        for t in range(8):
            for c in range(3):
                if not harm and c == 1 and t in (2, 3):
                    continue
                clients[c].receive(server.bundle(c))
                train(clients[c].model, c, t)
                frame = clients[c].reply()
                if harm and c == 1 and t == 2:
                    continue
                if harm and c == 1 and t == 3:
                    assert server.accept(c, frame[:-1] + bytes([frame[-1] ^ 1]), WEIGHTS[c]) is None
                    continue
                assert server.accept(c, frame, WEIGHTS[c]) is not None
            server.step()
        assert server.rejected == ({1: 1} if harm else {})
        return server

    close(played(harm=True).model, played(harm=False).model, atol=0)


def test_a_client_with_a_value_that_is_not_finite_is_told_which_tensor_and_recovers():
    server, clients = federation(ErrorFeedback(chain(TopK(0.3))))
    play(server, clients, 2)
    clients[0].receive(server.bundle(0))
    with torch.no_grad():
        next(clients[0].model.parameters())[1, 2] = torch.nan
    with pytest.raises(LocalError, match=r"0\.weight has 1 NaN"):
        clients[0].reply()
    server.step()
    play(server, clients, 2)
    assert not server.rejected
    assert all(bool(torch.isfinite(p).all()) for p in server.model.parameters())


def test_a_late_frame_counts_in_the_round_it_arrives_in():
    server, clients = federation(LookBack(Raw(), 0.5))
    play(server, clients, 2)
    for c in range(2):
        clients[c].receive(server.bundle(c))
        train(clients[c].model, c, 2)
    late = clients[0].reply()
    server.accept(1, clients[1].reply(), 1.0)
    server.step()
    before = server.flat.params.clone()
    assert server.accept(0, late, 1.0) is not None
    server.step()
    assert not torch.equal(server.flat.params, before)
    play(server, clients, 2)
    assert not server.rejected


def test_a_frame_that_comes_twice_counts_once():
    server, clients = federation(Raw())
    clients[0].receive(server.bundle(0))
    train(clients[0].model, 0, 0)
    frame = clients[0].reply()
    assert server.accept(0, frame, 1.0) is not None
    assert server.accept(0, frame, 1.0) is None
    assert server.rejected == {0: 1}
    play(server, clients, 2)


def test_a_round_without_frames_leaves_the_model_where_it_is():
    server, clients = federation(Raw())
    play(server, clients, 1)
    before = server.flat.params.clone()
    server.step()
    assert torch.equal(server.flat.params, before)
    assert server.round == 2


@pytest.mark.parametrize("lost", ["client", "server"])
@pytest.mark.parametrize("up", [LookBack(Raw(), 0.9), ErrorFeedback(chain(TopK(0.3)))], ids=repr)
def test_an_end_that_lost_its_state_heals_within_one_exchange(up, lost):
    server, clients = federation(up)
    play(server, clients, 3)
    if lost == "client":
        clients[1] = Client(model(), Method.of(up), Key(1).fold(1), 1)
        server.versions.pop(1)
    else:
        server.uplinks._in_memory.pop(1)
    play(server, clients, 3)
    assert not server.rejected


@pytest.mark.parametrize("start", [0, 2**16 - 4, 2**16 - 2, 2**16, 2**20, 2**24 - 30])
@pytest.mark.parametrize("restored", ["client", "server"])
def test_an_end_restored_from_an_older_copy_heals_within_one_exchange(restored, start):
    server, clients = federation(LookBack(Raw(), 0.9))
    clients[1].up.resync(start)
    play(server, clients, 2)
    for c in (0, 1, 2):
        clients[c].receive(server.bundle(c))  # settles the last reply
    end = clients[1].up if restored == "client" else server.receiver(1)
    old = end.dump()
    play(server, clients, 5)
    clients[1].receive(server.bundle(1))
    end.load(old)
    play(server, clients, 3)
    assert not server.rejected


def test_the_last_number_of_a_link_is_refused_and_the_round_goes_on(tmp_path):
    store = StateStore(tmp_path)
    server, clients = federation(Raw(), store=store)
    first = server.receiver(0).history
    play(server, clients, 1)
    clients[0].receive(server.bundle(0))
    frame = clients[0].reply()
    assert server.accept(0, restamp(frame, sequence=2**24 - 1, history=first, key=True), 1.0) is None
    assert "past the end of a link" in server.reasons[0]
    assert server.accept(0, frame, 1.0) is not None
    store.close()


def test_a_hostile_frame_is_counted_and_the_round_goes_on():
    server, clients = federation(chain(Quantize(4), Rans()))
    play(server, clients, 1)
    clients[0].receive(server.bundle(0))
    train(clients[0].model, 0, 1)
    frame = clients[0].reply()
    for hostile in (
        b"",
        bytes(16),
        b"\xff" * 100,
        restamp(frame, b"\xff" * 40),
        restamp(frame, codec=1),
        frame + b"\0",
    ):
        assert server.accept(0, hostile, 1.0) is None
    assert server.accept(0, frame, 1.0) is not None
    assert server.rejected == {0: 6}


def test_a_client_that_lies_about_its_version_harms_only_itself():
    server, clients = federation(Raw(), Delta(Raw()))
    play(server, clients, 3)
    clients[0].receive(server.bundle(0))
    for lie in (0, 1, 4, 5, 40_000, 65_535):
        frame = clients[0].reply()
        server.accept(0, restamp(frame, ack=lie), 1.0)
        bundle = server.bundle(0)
        clients[0]._core.commit()
        assert isinstance(bundle, bytes)
    server.step()
    play(server, clients, 1, lambda t: (1, 2))


@pytest.mark.parametrize("optimizer", [ServerSGD(lr=0.5, momentum=0.9), FedAdam()], ids=repr)
def test_server_optimisers_do_what_their_papers_say(optimizer):
    server, clients = federation(Raw(), optimizer=optimizer)
    theta, m, v = server.flat.params.clone(), 0.0, getattr(optimizer, "tau", 0.0) ** 2
    for t in range(4):
        play(server, clients, 1, lambda t: (0,))
        g = torch.cat([x.reshape(-1) for x in clients[0]._core.up.value.values()])
        if isinstance(optimizer, ServerSGD):
            m = 0.9 * m + g
            theta = theta - 0.5 * m
        else:
            m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
            theta = theta - 1e-2 * m / (torch.as_tensor(v).sqrt() + 1e-3)
        torch.testing.assert_close(server.flat.params, theta, rtol=1e-5, atol=1e-6, msg=f"round {t}")


def test_dividing_by_everybodys_weight_shrinks_the_step():
    """LBGM's official code: theta -= sum of w_k update_k over the sampled, w_k = n_k / all clients' n."""
    sampled, clients = federation(Raw())
    everybody, others = federation(Raw(), normalise="all", total_weight=8.0)
    start = sampled.flat.params.clone()
    play(sampled, clients, 1, lambda t: (1,))
    play(everybody, others, 1, lambda t: (1,))
    torch.testing.assert_close(everybody.flat.params - start, (sampled.flat.params - start) * 2 / 8)


def test_states_on_disk_give_the_same_run_as_states_in_memory(tmp_path):
    up = LookBack(ErrorFeedback(chain(TopK(0.5))), 0.9)
    kept, clients = federation(up)
    play(kept, clients, 4)
    store = StateStore(tmp_path)
    stored, clients = federation(up, store=store)
    play(stored, clients, 4)
    close(kept.model, stored.model, atol=0)
    store.close()


def test_a_dumped_server_goes_on_bit_for_bit(tmp_path):
    up, down = LookBack(Raw(), 0.9), Delta(chain(Quantize(8)))
    store = StateStore(tmp_path)
    server, clients = federation(up, down, store=store, optimizer=ServerSGD(momentum=0.9))
    play(server, clients, 3)
    again, _ = federation(up, down, store=store, optimizer=ServerSGD(momentum=0.9))
    again.load(server.round, server.dump(), server.versions)
    assert [again.bundle(c) for c in range(3)] == [server.bundle(c) for c in range(3)]
    play(again, clients, 3)
    server, clients = federation(up, down, optimizer=ServerSGD(momentum=0.9))
    for rounds in (3, 3):
        play(server, clients, rounds)
    close(again.model, server.model, atol=0)
    store.close()


def test_sampling_is_a_subset_that_the_key_decides():
    server, _ = federation(Raw())
    first = server.sample(100, 10)
    assert first == sorted(set(first)) == federation(Raw())[0].sample(100, 10)
    server.step()
    assert server.sample(100, 10) != first
    assert server.sample(3, 10) == [0, 1, 2]


def test_arguments_that_make_no_sense_are_refused():
    for options in ({"normalise": "none"}, {"normalise": "all"}):
        with pytest.raises(LocalError, match="normalise"):
            federation(Raw(), **options)
    server, _ = federation(Raw())
    for weight in (0, -1, float("nan")):
        assert server.accept(0, b"", weight) is None and "weight must be > 0" in server.reasons[0]
    with pytest.raises(LocalError, match="float buffers or control variates through a lossy codec"):
        federation(each(TopK(0.1)), norm=True)
    assert flat(Raw()) == federation(Raw())[0].exchange.up
