"""Nesting has meaning: every method pins its own, and its options."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import fewbits as fb
from fewbits.learn import FlatModel
from fewbits.methods import METHODS, build, fedpara, gossip, named, topk
from fewbits.methods.catalogue import OVER, options, source
from fewbits.methods.gossip import GOSSIP, gossip_method
from fewbits.methods.homes import played_elsewhere
from fewbits.methods.text import read, read_all
from fewbits.privacy import DifferentialPrivacy, PairwiseMasking
from fewbits.replicas import codec_of
from fewbits.replicas.noloco import RANK_METHODS

STACK = "chain(TopK(fraction=0.05), Quantize(bits=4), Rans())"
UP = {
    "dense": "flat(chain(Raw()))",
    "fedpaq": "flat(chain(Quantize(bits=8)))",
    "topk": f"flat(ErrorFeedback({STACK}))",
    "randk": "flat(ErrorFeedback(chain(RandK(fraction=0.05, mode='contractive'), Quantize(bits=4), Rans())))",
    "signsgd": "flat(ErrorFeedback(chain(Sign())))",
    "deadzone": "flat(ErrorFeedback(chain(DeadZone(levels=3, step=1.1), Rans())))",
    "eden": "flat(chain(Rotate(seed=None), Sign(mode='unbiased')))",
    "powersgd": "flat(ErrorFeedback(chain(LowRank(rank=4, passes=1, per='tensor', columns=None))))",
    "diloco": "flat(chain(Quantize(bits=4), Rans()))",
    "sparseloco": "flat(ErrorFeedback(chain(TopK(fraction=0.015625, chunk=4096), Sign(sizes=2), Rans()), decay=0.95))",
    "demo": "flat(ErrorFeedback(chain(DCT(chunk=64), TopK(fraction=0.0078125, chunk=4096), Quantize(bits=8), Rans()), "
    "decay=0.999))",
    "lbgm": "flat(LookBack(chain(Raw())))",
    "lbgm+topk": f"flat(LookBack({STACK}))",
    "lbgm+sign": "flat(LookBack(chain(Sign()), threshold=0.6))",
    "predict": f"flat(ErrorFeedback(Predict({STACK}, silent=0.2)))",
    "fetchsgd": "flat(chain(MeanSketch(columns=400, rows=5, seed=7, mode='unbiased')))",
    **dict.fromkeys(["fedprox", "scaffold", "feddyn", "fedadam", "fedyogi", "local"], "flat(chain(Raw()))"),
    **dict.fromkeys(["fedpara", "lowrank", "pfedpara", "fedper", "intrinsic"], "flat(chain(Raw()))"),
    "masked": "flat(chain(Modular(bits=32)))",
    **dict.fromkeys(["dp", "median", "trimmed", "krum", "multikrum", "geomedian", "bounded"], "flat(chain(Raw()))"),
}


def test_every_method_is_pinned_here():
    assert list(UP) == list(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_nests_its_uplink_as_pinned(name):
    method = build(name)
    assert method.name == name
    assert repr(method.up) == UP[name]
    assert method.up == eval(UP[name], vars(fb.codecs) | vars(fb.coders))


def test_look_back_goes_around_error_feedback_or_inside_it_or_without_it():
    inside, outside = (build("lbgm+topk", {"feedback": where}) for where in ("inside", "outside"))
    assert repr(inside.up) == f"flat(LookBack(ErrorFeedback({STACK})))"
    assert repr(outside.up) == f"flat(ErrorFeedback(LookBack({STACK})))"
    assert repr(build("predict", {"feedback": "none"}).up) == f"flat(Predict({STACK}, silent=0.2))"


def test_a_downlink_is_the_whole_model_or_differences_to_the_public_one():
    assert repr(build("dense").down) == "flat(chain(Raw()))"
    assert repr(build("dense", {"down": "fp16"}).down) == "flat(chain(Raw('fp16')))"
    assert repr(build("topk").down) == "flat(Delta(chain(Quantize(bits=8), Rans())))"
    assert repr(build("fetchsgd").down) == "flat(Delta(chain(Threshold(tau=0.0))))"


@pytest.mark.parametrize("name", METHODS)
def test_every_option_can_be_given_as_text(name):
    given = {key: str(value) for key, value in options(name).items()}
    assert build(name, given) == build(name)


def test_the_adaptive_threshold_can_be_given_as_text():
    method = build("lbgm", {"threshold": "adaptive:2:0.1:5"})
    assert method.up == fb.flat(fb.LookBack(fb.Raw(), threshold=fb.codecs.Adaptive(lr=0.1, steps=5, c=2.0)))


ROBUST = ["median", "trimmed", "krum", "multikrum", "geomedian"]
REFUSED = [("dp", "scaffold"), *((outer, "fetchsgd") for outer in ["intrinsic", *ROBUST])]  # it steps on sketches
OVERLAID = [
    f"{outer}+{inner}"
    for outer in OVER
    for inner in METHODS
    if inner not in OVER and outer != "masked" and (outer, inner) not in REFUSED
]


@pytest.mark.parametrize("name", OVERLAID)
def test_a_method_over_another_has_its_links_and_the_options_of_both(name):
    outer, _, inner = name.partition("+")
    method, alone, below = build(name), build(outer), build(inner)
    assert method.name == (outer if inner == "dense" else name)
    for field in ("up", "down", "optimizer", "normalise", "objective"):
        assert getattr(method, field) == getattr(below, field)
    assert method.factor == (alone.factor or below.factor) and method.inside == alone.inside
    assert method.private == (alone.private or below.private)
    own = {key: value for key, value in options(outer).items() if key not in options("dense")}
    inside = options(inner)
    assert options(name) == own | inside and not own.keys() & inside.keys()
    given = {key: str(value) for key, value in options(name).items()}
    assert build(name, given) == method


def test_noise_may_stand_over_a_method_over_another():
    method, below = build("dp+fedpara+topk", {"noise": "2", "gamma": "0.3"}), build("fedpara+topk", {"gamma": "0.3"})
    assert method == replace(below, name="dp+fedpara+topk", privacy=DifferentialPrivacy(noise=2.0))
    assert options("dp+intrinsic+fedpaq").keys() > {"clip", "noise", "delta", "share", "dim", "mode", "bits"}
    assert build("dp+intrinsic", {"mode": "static"}).name == "dp+intrinsic"


@pytest.mark.parametrize("name", ["masked+intrinsic", "masked+fedpara", "masked+fedprox", "dp+masked+pfedpara"])
def test_masks_stand_over_whatever_sends_dense_numbers(name):
    method, below = build(name, {"bits": "40"}), build(name.rpartition("+")[2])
    assert method.masking == PairwiseMasking(40) and repr(method.up) == "flat(chain(Modular(bits=40)))"
    for field in ("down", "optimizer", "objective", "factor", "space", "private"):
        assert getattr(method, field) == getattr(below, field)
    given = {key: str(value) for key, value in options(name).items()}
    assert build(name, given) == build(name)


def test_factors_over_look_back_over_topk_nest_as_pinned():
    method = build("fedpara+lbgm+topk", {"gamma": "0.3", "skip": "a, b.*", "fraction": "0.1", "down": "fp16"})
    assert repr(method.factor) == "Factorisation(form='fedpara', gamma=0.3, skip=('a', 'b.*'))"
    assert repr(method.up) == f"flat(LookBack({STACK.replace('0.05', '0.1')}))"
    assert repr(method.down) == "flat(chain(Raw('fp16')))"


@pytest.mark.parametrize(("name", "budget"), [("fedpara", 9000), ("lowrank", 9000), ("pfedpara", 5000)])
def test_gamma_may_be_found_from_a_budget(name, budget):
    method, model = build(name, {"gamma": "auto", "budget": str(budget)}), nn.Linear(64, 50)
    method.prepare(model, fb.Key(0))
    sent = 4 * FlatModel(model).shared.numel()
    assert 0.8 * budget < sent <= budget


def test_methods_compose_as_values():
    assert fedpara(topk(fraction=0.2), gamma=0.4) == build("fedpara+topk", {"fraction": "0.2", "gamma": "0.4"})
    assert build("fedper", {"private": "0, head.*"}).private == ("0", "head.*")


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("lbmg", {}, "did you mean 'lbgm'[?] choose one of dense, fedpaq"),
        ("lbgm", {"treshold": "0.2"}, "has no option 'treshold'; did you mean 'threshold'[?] it has threshold=0.2"),
        (
            "lbgm",
            {"threshold": "high"},
            "option threshold must be float or adaptive:C:LR:STEPS, such as 0.2; got 'high'",
        ),
        ("lbgm", {"threshold": "adaptive:1"}, "option threshold must be float or adaptive:C:LR:STEPS"),
        ("lbgm", {"threshold": "adaptive:1:0:5"}, "lr must be a finite number above 0; got 0.0"),
        ("lbgm", {"normalise": "some"}, "normalise must be one of sampled, all; got 'some'"),
        ("lbgm", {"threshold": "2"}, r"threshold must be a number in \[0, 1\]; got 2.0"),
        ("lbgm", {"feedback": "perhaps"}, "option feedback must be true or false"),
        ("lbgm+topk", {"feedback": "both"}, "feedback must be one of none, inside, outside; got 'both'"),
        ("predict", {"feedback": "inside"}, "feedback must be one of none, outside"),
        ("topk", {"down": "delta3"}, "unknown downlink 'delta3'; .*choose one of dense, fp16, delta8, delta4, sparse"),
        ("dense", {"momentum": "1"}, r"momentum must be a number in \[0, 1\)"),
        (
            "fedpara+magic",
            {},
            "unknown method 'magic'; .*choose one of dense.*put one of fedpara, lowrank, pfedpara, fedper",
        ),
        ("topk+fedpara", {}, r"unknown method 'topk\+fedpara'; .*choose.*as in fedpara\+lbgm\+topk"),
        ("masked+topk", {}, r"masks need a dense uplink.*; the uplink of topk is flat\(ErrorFeedback"),
        ("masked+fedpaq", {}, "the uplink of fedpaq is"),
        ("masked+feddyn", {}, "masks need clients that keep nothing"),
        ("masked+scaffold", {}, "masks need clients that keep nothing"),
        ("masked+intrinsic", {"mode": "k-subspace", "local": "outside"}, "one subspace for all"),
        ("masked", {"bits": "60"}, r"bits must be a whole number in 2\.\.48; got 60"),
        ("intrinsic+topk+deadzone", {}, "topk and deadzone do not stack, as each says how an update travels"),
        ("masked+dp", {}, r"unknown method 'masked\+dp'"),
        ("dp+dp", {}, r"unknown method 'dp\+dp'"),
        ("fedpara+dp", {}, r"unknown method 'fedpara\+dp'; .*dp may stand over these, as in dp\+fedpara\+topk"),
        ("dp+scaffold", {}, "would keep all noise of dp; take another objective"),
        ("dp", {"share": "shared"}, "share must be one of local, central; got 'shared'"),
        ("dp", {"noise": "0"}, r"noise must be a number in \[0\.01, 1e6\]; got 0\.0"),
        ("dp", {"delta": "1"}, r"delta must be a number in \(0, 1\); got 1\.0"),
        ("dp", {"clip": "-1"}, r"clip must be a number in \[1e-20, 1e20\]; got -1\.0"),
        ("fedpara+fedper", {}, r"unknown method 'fedpara\+fedper'"),
        ("fedpara+pfedpara+topk", {}, r"unknown method 'fedpara\+pfedpara\+topk'"),
        ("intrinsic+fetchsgd", {}, "steps on sketches, not in a subspace"),
        ("fetchsgd", {"feedback": "some"}, "feedback must be one of subtract, zero; got 'some'"),
        ("fedpara+", {}, r"unknown method 'fedpara\+'"),
        ("+topk", {}, r"unknown method '\+topk'"),
        (
            "fedpara+topk",
            {"theshold": "1"},
            r"method 'fedpara\+topk' has no option 'theshold'; it has gamma=0.1.*fraction",
        ),
        ("fedpara", {"gamma": "much"}, "option gamma must be float or auto, such as 0.1; got 'much'"),
        ("fedpara", {"gamma": "2"}, r"gamma must be a number in \[0, 1\]"),
        ("fedpara", {"gamma": "auto"}, "gamma='auto' and budget_bytes go together"),
        ("pfedpara", {"budget": "1000"}, "gamma='auto' and budget_bytes go together"),
        ("fedpara", {"tanh": "perhaps"}, "option tanh must be true or false"),
        ("feddyn", {"alpha": "0"}, "alpha must be a finite number above 0; got 0.0"),
        ("fedprox", {"mu": "-1"}, "mu must be a finite number, 0 or more; got -1.0"),
    ],
)
def test_bad_input_gets_a_sentence_with_the_valid_choices(name, settings, said):
    with pytest.raises(fb.LocalError, match=said):
        build(name, settings)


# methods as text


def test_every_method_names_its_paper_or_says_that_it_is_ours():
    without = [name for name, make in [*METHODS.items(), *gossip.GOSSIP.items()] if not source(make)]
    assert without == []


def test_options_may_stand_in_the_text_and_those_given_apart_win():
    text = "lbgm+topk@threshold=0.2,fraction=0.01"
    assert build(text) == build("lbgm+topk", {"threshold": "0.2", "fraction": "0.01"}) != build("lbgm+topk")
    assert build(text, {"fraction": "0.3"}) == build("lbgm+topk", {"fraction": "0.3"})
    assert gossip.build("malcom@mu=1e-4,bits=3") == gossip.malcom(mu=1e-4, bits=3)
    assert named(text) == build(text) and named(topk()) == topk() and gossip.gossip_method("dsgd") == gossip.dsgd()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("dense,topk", ["dense", "topk"]),
        ("topk@fraction=0.01,bits=8,dense", ["topk@fraction=0.01,bits=8", "dense"]),
        ("topk,fraction=0.01,dense", ["topk@fraction=0.01", "dense"]),
        ("topk@fraction=0.1,down=dense,dense", ["topk@fraction=0.1,down=dense", "dense"]),
        ("dp@noise=2,share=local,local", ["dp@noise=2,share=local", "local"]),
        ("lbgm@threshold=adaptive:1:0.1:5, lbgm", ["lbgm@threshold=adaptive:1:0.1:5", "lbgm"]),
    ],
)
def test_a_part_without_a_method_continues_the_one_before_it(text, found):
    assert [str(method) for method in read_all(text, options)] == found


def test_a_label_stands_before_its_method():
    found = read_all("a=topk@fraction=0.01,bits=8,b=topk@fraction=0.05,lbgm+topk", options)
    assert [(m.label, m.name, m.settings) for m in found] == [
        ("a", "topk", {"fraction": "0.01", "bits": "8"}),
        ("b", "topk", {"fraction": "0.05"}),
        ("lbgm+topk", "lbgm+topk", {}),
    ]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: read("@fraction=0.1"), "a method is NAME or NAME@option=value"),
        (lambda: read("topk@"), "a method is NAME or NAME@option=value"),
        (lambda: read("topk@fraction"), "a method is NAME or NAME@option=value"),
        (lambda: read("topk@fraction=0.1,fraction=0.2"), "each once"),
        (lambda: read_all("fraction=0.1,topk", options), "is an option without its method"),
        (
            lambda: build("topk@fractoin=0.1"),
            "has no option 'fractoin'; did you mean 'fraction'[?] it has fraction=0.05",
        ),
        (lambda: build("tokp"), "unknown method 'tokp'; did you mean 'topk'[?]"),
        (lambda: named(3), "a method is a text such as .*; got 3"),
        (lambda: named(topk(), {"bits": "8"}), "settings are for a method given as text"),
    ],
)
def test_text_that_is_no_method_gets_a_sentence(wrong, said):
    with pytest.raises(fb.LocalError, match=said):
        wrong()


@pytest.mark.parametrize("name", [*GOSSIP, *RANK_METHODS])
def test_a_method_without_a_server_says_who_plays_it(name):
    sentence = "fb.gossip" if name in GOSSIP else "fb.distributed.OuterStep"
    assert sentence in str(played_elsewhere(name))
    for text in (name, f"fedpara+{name}"):
        with pytest.raises(fb.LocalError, match=f"method '{name}' .*{sentence}"):
            build(text)


@pytest.mark.parametrize("text", ["auto", "auto@x=1"])
@pytest.mark.parametrize(
    "take",
    [
        build,
        gossip_method,
        lambda text: codec_of(text, "OuterStep"),
        lambda text: fb.compare(nn.Linear(2, 2), [], f"dense,{text}"),
        lambda text: fb.federate(nn.Linear(2, 2), [(torch.eye(2), torch.arange(2))], "auto@x=2", budget="1MB"),
    ],
)
def test_auto_says_where_it_chooses(take, text):
    with pytest.raises(fb.LocalError, match=r"method 'auto' is for fb\.federate and fewbits train"):
        take(text)


def test_a_method_that_takes_no_layers_says_so():
    with pytest.raises(
        fb.LocalError, match=r"method 'noloco' stands alone, not as in 'noloco\+topk', and is for ranks"
    ):
        fb.distributed.Replicas([nn.Linear(2, 2)], "noloco+topk")
    with pytest.raises(
        fb.LocalError, match=r"method 'dsgd' stands alone, not as in 'fedpara\+dsgd', and has no server"
    ):
        gossip_method("fedpara+dsgd")


@pytest.mark.parametrize(
    ("wrong", "meant"), [("nolocoo", "noloco"), ("chocco", "choco"), ("autoo", "auto"), ("dilco", "diloco")]
)
def test_the_nearest_of_all_methods_is_suggested_wherever_it_is_played(wrong, meant):
    with pytest.raises(fb.LocalError, match=f"unknown method '{wrong}'; did you mean '{meant}'"):
        build(wrong)


def test_without_a_server_a_method_that_needs_one_says_who_plays_it():
    with pytest.raises(fb.LocalError, match=r"method 'lbgm' needs a server; play it with fb\.federate"):
        gossip_method("lbgm@threshold=0.3")
    with pytest.raises(fb.LocalError, match="method 'noloco' is for ranks"):
        gossip_method("noloco")
