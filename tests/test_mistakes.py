"""Mistakes of callers and peers that once did harm: each gets a sentence, and loses nothing."""

import copy

import pytest
import torch
from torch import nn

import fewbits as fb
from fewbits.links.bundle import wrap
from fewbits.links.identity import codec_hash
from fewbits.wire import BitReader, BitWriter
from fewbits.wire.values import read_key

SPEC = fb.Spec((4,))
RAW = fb.flat(fb.Raw())
METHOD = fb.Method.of(RAW, RAW)


def ends():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return fb.Server(copy.deepcopy(model), METHOD, fb.Key(0)), fb.Client(model, METHOD, fb.Key(1))


def shift(model, by):
    with torch.no_grad():
        for p in model.parameters():
            p.sub_(by)


@pytest.mark.parametrize(
    "codec", ["LookBack(Raw(), threshold={})", "Predict(Raw(), silent={})", "TopK({})", "RandK({})"]
)
def test_numbers_of_equal_value_name_the_same_codec(codec):
    whole, real = (eval(codec.format(x), vars(fb).copy()) for x in ("1", "1.0"))
    assert repr(whole) == repr(real)
    assert codec_hash(fb.flat(whole), SPEC) == codec_hash(fb.flat(real), SPEC)


def test_a_module_that_two_clients_hold_is_refused_instead_of_training_nothing():
    server, client = ends()
    other = fb.Client(client.model, METHOD, fb.Key(2))
    assert other.model is client.model
    with pytest.raises(fb.LocalError, match="the module was laid out again"):
        client.receive(server.bundle(0))


def test_a_reply_before_the_first_bundle_and_an_empty_first_bundle_are_refused():
    _, client = ends()
    with pytest.raises(fb.LocalError, match="receive a bundle from the server first"):
        client.reply()
    with pytest.raises(fb.WireError, match="first bundle"):
        client.receive(wrap([], 0))


def test_finite_updates_too_large_to_sum_are_left_out_and_the_round_goes_on():
    server, client = ends()
    other = fb.Client(copy.deepcopy(client.model), METHOD, fb.Key(2))
    for number, (each, by) in enumerate(((client, 1e37), (other, 1.0))):
        each.receive(server.bundle(number))
        shift(each.model, by)
        server.accept(number, each.reply(), weight=60)
    before = server.flat.vector().clone()
    server.step()
    assert server.rejected == {0: 1}
    torch.testing.assert_close(server.flat.vector(), before - 1.0)


def test_a_server_that_has_gone_back_is_noticed():
    server, client = ends()
    for _ in range(3):
        client.receive(server.bundle(0))
        server.step()
    with pytest.raises(fb.DesyncError, match="the bundle ends at version 1, we hold version 3"):
        client.receive(ends()[0].bundle(0))


def test_a_dense_broadcast_keeps_one_model_whatever_the_number_of_rounds():
    server, _ = ends()
    for _ in range(5):
        server.step()
    assert len(server.broadcast.dump()) == 2  # the sender and the last entry


@pytest.mark.parametrize("make", [lambda: fb.Sender(RAW, SPEC, 0), lambda: fb.Server(nn.Linear(1, 1), METHOD, 0)])
def test_a_number_where_a_key_belongs_is_refused(make):
    with pytest.raises(fb.LocalError, match=r"such as Key\(0\); got 0"):
        make()


@pytest.mark.parametrize("text", [b"[" * 60_000, b"[" * 1000, b'[0,"\\ud800"]', b"\xff", b"[]", b"[1.5]"])
def test_a_stored_key_that_is_none_is_the_peers_mistake(text):
    out = BitWriter()
    out.write(len(text), 16)
    out.write_bytes(text)
    with pytest.raises(fb.WireError, match="stored key"):
        read_key(BitReader(out.finish()))


def test_a_floor_over_several_tensors_is_the_largest_of_theirs():
    codec = fb.each(fb.LookBack(fb.Raw(), threshold=1.0))
    first = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([1.0, 0.0])}
    second = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([1.0, 0.0])}
    sender = fb.Sender(codec, fb.Spec.of(first), fb.Key(0))
    sender.send(first)
    sender.commit()
    sender.send(second)
    assert sender.observe() == pytest.approx({"recycled": 1.0, "floor": 4.0})


def rows(n):
    return torch.zeros(n, 2), torch.zeros(n, dtype=torch.int64)


@pytest.mark.parametrize(
    ("clients", "options", "said"),
    [
        ([(torch.zeros(3, 2), rows(2)[1])], {}, "client 0: it has 3 rows of x and 2 of y"),
        ([rows(3)], {"test": rows(0)}, "at least one; got 0 and 0"),
        ([rows(3)], {"test": (rows(3)[0], rows(2)[1])}, "got 3 and 2"),
        ([], {}, "at least one client"),
        ([rows(3)], {"method": 3}, "a method is a text such as"),
    ],
)
def test_data_that_does_not_fit_is_refused_before_anything_is_trained(clients, options, said):
    with pytest.raises(fb.LocalError, match=said):
        fb.federate(nn.Linear(2, 2), clients, **{"method": fb.methods.lbgm(), "rounds": 1} | options)
