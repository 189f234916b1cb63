"""flat, each, route: who travels with whom, and what does not fit."""

import pytest
import torch

from every_codec import TREE, deliver, ends, payload_of, run, stream
from fewbits.codecs import (
    Delta,
    ErrorFeedback,
    LookBack,
    Quantize,
    Raw,
    Sign,
    TopK,
    chain,
    each,
    flat,
    route,
)
from fewbits.coders import Rans
from fewbits.errors import LocalError
from fewbits.links import Sender
from fewbits.rng import Key
from fewbits.spec import Spec


def test_flat_is_the_codec_on_the_tensors_laid_end_to_end():
    x = next(stream(1))
    vector = torch.cat([t.reshape(-1) for t in x.values()])
    for codec in (chain(TopK(0.2)), chain(Quantize(4), Rans()), ErrorFeedback(chain(Sign()))):
        together = run(flat(codec), [x])[0][0]
        assert payload_of(together) == payload_of(run(codec, [vector], Spec.of(vector))[0][0])


def test_each_gives_every_tensor_its_own_selection():
    x = {"large": torch.full((10,), 100.0), "small": torch.arange(1.0, 11.0)}
    value = run(each(TopK(0.1)), [x], Spec.of(x))[1][0]
    assert [int(t.count_nonzero()) for t in value.values()] == [1, 1]
    value = run(flat(TopK(0.1)), [x], Spec.of(x))[1][0]
    assert [int(t.count_nonzero()) for t in value.values()] == [2, 0]


def test_equal_tensors_get_different_dither():
    x = {"a": torch.linspace(-1, 1, 200), "b": torch.linspace(-1, 1, 200)}
    value = run(each(Quantize(2)), [x], Spec.of(x))[1][0]
    assert not torch.equal(value["a"], value["b"])


def test_route_sends_each_tensor_by_the_first_pattern_that_matches():
    x = {"fc.weight": torch.randn(50), "fc.bias": torch.randn(5), "norm.bias": torch.randn(5)}
    codec = route([("fc.*", TopK(0.1)), ("*.bias", Raw())])
    value = run(codec, [x], Spec.of(x))[1][0]
    assert torch.equal(value["norm.bias"], x["norm.bias"])
    assert int(value["fc.weight"].count_nonzero()) + int(value["fc.bias"].count_nonzero()) == 6  # ceil(5.5) together
    assert list(value) == list(x)


def test_route_names_the_pattern_that_gets_nothing():
    with pytest.raises(LocalError, match=r"'\*.embedding' gets no tensor"):
        Sender(route([("*.embedding", Raw()), ("*", TopK(0.1))]), TREE, Key(0))


def test_a_pattern_hidden_by_an_earlier_one_is_an_error_too():
    with pytest.raises(LocalError, match="'bias' gets no tensor"):
        Sender(route([("*", Raw()), ("bias", TopK(0.1))]), TREE, Key(0))


def test_route_names_the_tensor_without_a_rule():
    with pytest.raises(LocalError, match=r"no rule for 'weight'"):
        Sender(route([("bias", Raw())]), TREE, Key(0))


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: route([]), "at least one rule"),
        (lambda: route([Raw()]), "pairs"),
        (lambda: route([("*", "raw")]), "expected a codec"),
        (lambda: flat("raw"), "expected a codec"),
        (lambda: flat(each(Raw())), "lifts do not nest"),
        (lambda: each(flat(Raw())), "lifts do not nest"),
        (lambda: route([("*", flat(Raw()))]), "lifts do not nest"),
        (lambda: ErrorFeedback(flat(TopK(0.1))), "outermost"),
        (lambda: LookBack(each(Raw())), "outermost"),
        (lambda: Delta(route([("*", Raw())])), "outermost"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_built(build, says):
    with pytest.raises(LocalError, match=says):
        build()


def test_a_tree_must_come_as_it_was_announced():
    sender, _ = ends(Raw())
    x = next(stream(1))
    for wrong, says in (
        ({"bias": x["bias"], "weight": x["weight"], "gain": x["gain"]}, "in this order"),
        ({k: v for k, v in x.items() if k != "gain"}, "expected the tensors"),
        (x | {"bias": x["bias"].double()}, "bias must be float32"),
        (x | {"bias": torch.zeros(6)}, "bias must be float32 of shape"),
        (x | {"bias": [0.0] * 5}, "bias must be a tensor"),
        (x["bias"], "expected a dict of 3 tensors"),
    ):
        with pytest.raises(LocalError, match=says):
            sender.send(wrong)


def test_an_empty_tree_and_an_empty_tensor_travel():
    for x in ({}, torch.zeros(0), {"a": torch.zeros(0, 3), "b": torch.zeros(2)}):
        value = deliver(*ends(flat(ErrorFeedback(chain(TopK(0.1), Quantize(4), Rans()))), Spec.of(x)), x)[1]
        assert Spec.of(value) == Spec.of(x)


def test_half_precision_trees_sum_in_float32():
    """A group of one type keeps it on the wire; a mixed group goes to the wider one."""
    half = {"a": torch.ones(3, dtype=torch.float16), "b": torch.ones(3, dtype=torch.float16)}
    assert flat(Raw()).groups(Spec.of(half))[0].spec.dtype == "float16"
    mixed = half | {"b": torch.ones(3, dtype=torch.bfloat16)}
    assert flat(Raw()).groups(Spec.of(mixed))[0].spec.dtype == "float32"
    wider = half | {"b": torch.ones(3, dtype=torch.float64)}
    assert flat(Raw()).groups(Spec.of(wider))[0].spec.dtype == "float64"


def test_figures_are_the_mean_over_the_groups():
    x = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([1.0, 0.0])}
    y = {"a": torch.tensor([2.0, 0.0]), "b": torch.tensor([0.0, 1.0])}
    sender, receiver = ends(each(LookBack(Raw(), threshold=0.5)), Spec.of(x))
    deliver(sender, receiver, x)
    deliver(sender, receiver, y)
    assert receiver.observe()["recycled"] == 0.5
    assert sender.observe()["recycled"] == 0.5
