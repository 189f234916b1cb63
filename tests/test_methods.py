"""Nesting has meaning: every method pins its own, and its options."""

import pytest

import fewbits as fb
from fewbits.methods import METHODS, build
from fewbits.methods.catalogue import options

STACK = "chain(TopK(fraction=0.05), Quantize(bits=4), Rans())"
UP = {
    "dense": "flat(chain(Raw()))",
    "fedpaq": "flat(chain(Quantize(bits=8)))",
    "topk": f"flat(ErrorFeedback({STACK}))",
    "randk": "flat(ErrorFeedback(chain(RandK(fraction=0.05, mode='contractive'), Quantize(bits=4), Rans())))",
    "signsgd": "flat(ErrorFeedback(chain(Sign())))",
    "lbgm": "flat(LookBack(chain(Raw())))",
    "lbgm+topk": f"flat(LookBack({STACK}))",
    "lbgm+sign": "flat(LookBack(chain(Sign()), threshold=0.6))",
    "predict": f"flat(ErrorFeedback(Predict({STACK}, silent=0.2)))",
}


def test_every_method_is_pinned_here():
    assert list(UP) == list(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_nests_its_uplink_as_pinned(name):
    method = build(name)
    assert method.name == name
    assert repr(method.up) == UP[name]
    assert method.up == eval(UP[name], vars(fb).copy())


def test_look_back_goes_around_error_feedback_or_inside_it_or_without_it():
    inside, outside = (build("lbgm+topk", {"feedback": where}) for where in ("inside", "outside"))
    assert repr(inside.up) == f"flat(LookBack(ErrorFeedback({STACK})))"
    assert repr(outside.up) == f"flat(ErrorFeedback(LookBack({STACK})))"
    assert repr(build("predict", {"feedback": "none"}).up) == f"flat(Predict({STACK}, silent=0.2))"


def test_a_downlink_is_the_whole_model_or_differences_to_the_public_one():
    assert repr(build("dense").down) == "flat(chain(Raw()))"
    assert repr(build("dense", {"down": "fp16"}).down) == "flat(chain(Raw('fp16')))"
    assert repr(build("topk").down) == "flat(Delta(chain(Quantize(bits=8), Rans())))"


@pytest.mark.parametrize("name", METHODS)
def test_every_option_can_be_given_as_text(name):
    given = {key: str(value) for key, value in options(name).items()}
    assert build(name, given) == build(name)


def test_the_adaptive_threshold_can_be_given_as_text():
    method = build("lbgm", {"threshold": "adaptive:2:0.1:5"})
    assert method.up == fb.flat(fb.LookBack(fb.Raw(), threshold=fb.Adaptive(lr=0.1, steps=5, c=2.0)))


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("lbmg", {}, "choose one of dense, fedpaq"),
        ("lbgm", {"treshold": "0.2"}, "has no option 'treshold'; it has threshold=0.2"),
        (
            "lbgm",
            {"threshold": "high"},
            "option threshold must be float or adaptive:C:LR:STEPS, such as 0.2; got 'high'",
        ),
        ("lbgm", {"threshold": "adaptive:1"}, "option threshold must be float or adaptive:C:LR:STEPS"),
        ("lbgm", {"threshold": "adaptive:1:0:5"}, "lr and c must be > 0"),
        ("lbgm", {"normalise": "some"}, "normalise must be one of sampled, all; got 'some'"),
        ("lbgm", {"threshold": "2"}, r"threshold must be a number in \[0, 1\]; got 2.0"),
        ("lbgm", {"feedback": "perhaps"}, "option feedback must be true or false"),
        ("lbgm+topk", {"feedback": "both"}, "feedback must be one of none, inside, outside; got 'both'"),
        ("predict", {"feedback": "inside"}, "feedback must be one of none, outside"),
        ("topk", {"down": "delta3"}, "unknown downlink 'delta3'; choose one of dense, fp16, delta8, delta4"),
        ("dense", {"momentum": "1"}, r"momentum in \[0, 1\)"),
    ],
)
def test_bad_input_gets_a_sentence_with_the_valid_choices(name, settings, said):
    with pytest.raises(fb.LocalError, match=said):
        build(name, settings)
