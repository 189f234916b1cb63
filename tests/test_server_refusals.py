"""What a round cannot use is refused before anything moves, and the next round goes on."""

import pytest
import torch
from torch import nn

import fewbits as fb
from fewbits.federated import round_sum
from fewbits.learn import FedAdam


def build(norm: bool = False) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 3), *([nn.BatchNorm1d(3)] if norm else []), nn.Linear(3, 2))


def pair(method, norm: bool = False):
    return fb.Server(build(norm), method, fb.Key(0)), fb.Client(build(norm), method, fb.Key(1))


def shift(module: nn.Module, by: float) -> None:
    with torch.no_grad():
        for p in module.parameters():
            p.sub_(by)


def turn(server, client, by: float, weight: float = 1.0):
    client.receive(server.bundle(0))
    shift(client.model, by)
    return server.accept(0, client.reply(), weight)


def theta(server) -> torch.Tensor:
    return server.flat.vector().clone()


def test_an_update_of_an_earlier_epoch_is_left_out_and_the_link_heals():
    server, client = pair("intrinsic@dim=8,mode=time-varying,epoch=1,local=outside")
    client.receive(server.bundle(0))
    shift(client.model, 1.0)
    late = client.reply()
    server.step()
    before = theta(server)
    assert server.accept(0, late, 1.0) is None and "another subspace" in server.reasons[0]
    server.step()
    assert torch.equal(theta(server), before)
    assert turn(server, client, 1.0) is not None


def test_a_step_that_leaves_float32_changes_nothing_and_the_next_round_goes_on():
    """An absurd step size, or moments that overflow: the round is void."""
    for optimizer in (fb.ServerSGD(lr=1e30), FedAdam(lr=1e38)):
        server, client = pair(fb.Method.of(fb.Raw(), optimizer=optimizer))
        before = theta(server)
        for round, by in enumerate((1e14, 0.0), 1):
            assert turn(server, client, by) is not None
            server.step()
            assert server.round == round and torch.equal(theta(server), before)
            assert server.void.endswith("leaves float32's range; the model stays as it was") == bool(by)


def test_running_statistics_out_of_range_leave_the_parameters_as_they_were():
    server, _ = pair("dense", norm=True)
    server.flat.buffers.fill_(3.4028234e38)
    before = theta(server)
    update = {name: torch.ones(leaf.shape) for name, leaf in server.exchange.update}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(round_sum, "LARGEST_ENTRY", 3e38)
        server.step()
        update["buffer:1.running_mean"] = torch.full((3,), -3e37)
        server.add(update, 1.0)
        server.step()
    assert "leaves float32's range" in server.void and torch.equal(theta(server), before)
    broken = {name: x * torch.nan for name, x in server.flat.named().items()}
    with pytest.raises(fb.LocalError, match="leaves float32's range"):
        server.replace(broken)
    assert torch.equal(theta(server), before)


@pytest.mark.parametrize("method", ["dense", "topk", "lbgm"])
def test_a_frame_too_large_for_the_sum_was_never_received(method):
    server, client = pair(method)
    client.receive(server.bundle(0))
    shift(client.model, 1e10)
    state = server.receiver(0).dump()
    assert server.accept(0, client.reply(), 1e29) is None and "float32's range" in server.reasons[0]
    assert server.receiver(0).dump() == state
    assert turn(server, client, 1.0) is not None


def test_a_parameter_of_another_shape_is_named_instead_of_sending_nothing():
    server, client = pair("dense")
    client.receive(server.bundle(0))
    client.model[0].weight = nn.Parameter(torch.zeros(3, 5))
    with pytest.raises(fb.LocalError, match=r"0.weight has shape \(3, 5\)"):
        client.reply()


def test_a_client_keeps_what_it_is_when_a_dump_is_damaged():
    server, client = pair("topk")
    for _ in range(2):
        assert turn(server, client, 1.0) is not None
        server.step()
    good = client.dump()
    for at in range(0, len(good), 7):
        bad = bytearray(good)
        bad[at] ^= 0x40
        try:
            client.load(bytes(bad))
        except fb.WireError:
            assert client.dump() == good
        else:
            client.load(good)


def test_noise_of_a_version_that_comes_again_is_another():
    pytest.importorskip("opacus")
    method = "dp@clip=1e-6,noise=1"
    server, client = pair(method)
    older = server.round, server.dump(), dict(server.versions)
    frames = []
    for _ in range(2):
        server.load(*older)
        server.reset_downlink(0)
        client.reset_downlink()
        client.receive(server.bundle(0))
        frames.append(client.reply())
        with pytest.raises(fb.LocalError, match="receive the bundle of a later version"):
            client.reply()
    values = [
        fb.Receiver(server.exchange.up, server.exchange.sent).receive(f, server.exchange.of_round(1)) for f in frames
    ]
    assert not torch.equal(values[0]["0.weight"], values[1]["0.weight"])


@pytest.mark.parametrize("wrong", [None, 7, -1.5, "a", {0: "a"}, [None]])
def test_an_argument_of_the_wrong_kind_is_named_in_a_sentence(wrong):
    server, client = pair("topk")
    client.receive(server.bundle(0))
    before = theta(server)
    calls = [
        lambda: fb.Server(build(), "topk", fb.Key(0), common=wrong),
        lambda: fb.Server(build(), "topk", fb.Key(0), store=wrong or 0),
        lambda: fb.Server(build(), "topk", fb.Key(0), init=wrong or 0),
        lambda: fb.Client(build(), "topk", fb.Key(0), build=wrong or 0),
        lambda: server.sample(wrong if wrong != 7 else 7.5, 2),
        lambda: server.sample(10, wrong if wrong != 7 else 7.5),
        lambda: server.expect(wrong if wrong != {0: "a"} else ["a"]),
        lambda: server.replace(wrong),
        lambda: server.bundle(wrong if wrong != 7 else 7.5),
        lambda: server.accept(wrong if wrong != 7 else 7.5, b"", 1.0),
        lambda: server.load(0, wrong, {}),
        lambda: server.load(0, server.dump(), wrong if wrong != {0: "a"} else 1),
        lambda: server.load(wrong if wrong != 7 else 7.5, server.dump(), {}),
        lambda: client.reply(steps=wrong if wrong != 7 else 7.5, lr=0.1),
        lambda: client.reply(steps=1, lr=wrong if wrong != 7 else float("inf")),
        lambda: client.load(wrong),
        lambda: fb.topology.random_regular(8, wrong if wrong != 7 else 9),
        lambda: fb.topology.erdos_renyi(8, 0.5, wrong),
    ]
    for call in calls:
        with pytest.raises(fb.LocalError, match="got "):
            call()
    assert torch.equal(theta(server), before)


@pytest.mark.parametrize("form", [torch.Tensor.to_sparse, lambda x: x.to("meta")], ids=["sparse", "meta"])
def test_a_plain_update_without_all_of_its_numbers_is_refused(form):
    server, _ = pair("topk")
    update = {name: torch.ones_like(p) for name, p in server.model.named_parameters()}
    with pytest.raises(fb.WireError, match=r"0\.weight must hold all of its numbers; got"):
        server.add({**update, "0.weight": form(update["0.weight"])}, 1.0)
    server.step()


@pytest.mark.parametrize("wrong", [[], {}, ""])
def test_an_empty_value_is_no_share_of_inactive_nodes(wrong):
    nodes = [(torch.randn(4, 4), torch.arange(4) % 2) for _ in range(3)]
    with pytest.raises(fb.LocalError, match="got "):
        fb.gossip(build(), nodes, fb.topology.ring(3), "dsgd", 1, inactive=wrong)


@pytest.mark.parametrize("part", ["theta", "moments"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_dump_with_a_number_that_is_not_finite_is_refused_and_nothing_moves(part, value):
    server, client = pair("fedadam")
    turn(server, client, 1.0)
    server.step()
    before, dumped = theta(server), server.dump()
    damaged = [x.clone() for x in dumped[part]]
    damaged[0].view(-1)[1] = value
    with pytest.raises(fb.LocalError, match=rf"Server\.load: {part}: number 0 has 1 values that are not finite"):
        server.load(1, {**dumped, part: damaged}, {})
    assert torch.equal(theta(server), before)


@pytest.mark.parametrize("found", [(10**30, {}), (1, {-1: 1}), (-1, {})])
def test_a_round_or_a_client_that_cannot_be_is_refused_by_load(found):
    server, _ = pair("dense")
    round, versions = found
    with pytest.raises(fb.LocalError, match=r"Server\.load: (round|a client of versions) must be a whole number"):
        server.load(round, server.dump(), versions)
    assert server.round == 0
