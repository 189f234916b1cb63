"""The two tiers of public names: each list is pinned, so that a new name is a decision, and each name says enough."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

import fewbits as fb

FIRST = """
    Auto Client Delta DesyncError Elias ErrorFeedback FewbitsError Fixed Golomb Key LocalError LocalSGD LocalTraining
    LookBack LowRank Method PeerLostError Predict Quantize RandK Rans Raw Receiver Sender Server ServerSGD Sign Spec
    Subspace TopK WireError Zstd chain codecs coders compare distributed each factor federate fedpara flat gossip learn
    links load_model merge
    methods metrics pfedpara privacy route save_model shared simulation topology
"""
SECOND = {
    "codecs": """
        Adaptive Basis Blocks Chain Codec Contract CountSketch DCT DeadZone Delta Each ErrorFeedback FetchSGD
        FetchStep Flat Keys LastValue Lift LookBack LowRank MeanSketch Modular ModularEncoding Partial Predict
        Quantize RandK Raw Rotate Route Sign SinceStart Sketch Subspace Threshold TopK Total Transform TreeSpec
        TreeTotal as_lift chain each flat linear_values route same
    """,
    "coders": """
        Auto Coder Elias Fixed Golomb Rans Zstd delta_bits gamma_bits predicted_bits read_delta read_gamma
        read_support write_delta write_gamma write_support
    """,
    "distributed": "Elastic HookState OuterStep RandomPartner RankChange Replicas Streaming comm_hook",
    "factor": """
        Factorisation ParameterTable fedpara from_loha hadamard jacobian_correction lora_core lowrank merge
        parameter_table pfedpara private shared stack_lora to_loha
    """,
    "learn": """
        Aggregator Choco CoordinateMedian DSGD DeepSqueeze FedAdam FedDyn FedDynServer FedProx FedYogi FlatModel
        GeometricMedian GossipMethod GroupL1 IntrinsicSpace Krum L1 LocalReport LocalSGD LocalTraining Malcom Method
        MultiKrum NoProx Node NormBound Objective Plain Scaffold ServerSGD TrimmedMean
    """,
    "links": """
        Broadcast Downlink Entry EpochBroadcast EpochSubscriber Ledger Publisher Receiver Sender SharedInit
        StartedBroadcast StartedSubscriber StateStore Subscriber Subscription load_model save_model
    """,
    "methods": """
        METHODS bounded build deadzone demo dense diloco dp eden fedadam feddyn fedpaq fedpara fedper fedprox fedyogi
        fetchsgd geomedian intrinsic krum lbgm lbgm_sign lbgm_topk local lowrank masked median multikrum named pfedpara
        powersgd predict randk scaffold signsgd sparseloco topk trimmed
    """,
    "metrics": "f1 mae mse r2",
    "privacy": "DifferentialPrivacy GaussianMechanism PairwiseMasking epsilon local_epsilon",
    "simulation": """
        Comparison Federation Footprint GossipReport GossipResult GossipRun Observer Record Result RoundReport Row
        Schedule Task footprint
    """,
    "topology": """
        IntermittentNodes NAMED Network Periodic Topology by_name complete erdos_renyi exponential from_file
        from_weights graph hypercube layout random_regular ring star torus
    """,
}
# Values that only a run makes: their fields stand as comments in the class.
RESULTS = {"Footprint", "GossipReport", "GossipResult", "Record", "Result", "RoundReport", "Row"}
FILLER = re.compile(r"^(yes|itself|as the inner codec|see above|todo|[a-z])\W*$", re.IGNORECASE)
PLACES = ("fewbits", *(f"fewbits.{package}" for package in SECOND))


def public(place):
    """(name, thing) for all that the package makes public, modules left out."""
    module = import_module(place)
    found = ((name, getattr(module, name)) for name in module.__all__)
    return [(name, thing) for name, thing in found if not inspect.ismodule(thing)]


def own_docstring(thing):
    inherited = inspect.isclass(thing) and "__doc__" not in vars(thing)
    return "" if inherited else inspect.getdoc(thing) or ""


def arguments(thing):
    try:
        return list(inspect.signature(thing).parameters)
    except ValueError:  # an exception made in C
        return []


def test_the_first_tier_is_as_pinned():
    assert sorted(fb.__all__) == sorted(FIRST.split())
    assert fb.__all__ == sorted(fb.__all__)
    assert 30 <= len(set(fb.__all__) - set(SECOND)) <= 45  # without the packages


@pytest.mark.parametrize("package", SECOND)
def test_the_second_tier_is_as_pinned(package):
    assert sorted(import_module(f"fewbits.{package}").__all__) == sorted(SECOND[package].split())


def test_the_first_tiers_packages_are_the_second_tier():
    assert {name for name in fb.__all__ if inspect.ismodule(getattr(fb, name))} == set(SECOND)


@pytest.mark.parametrize("package", SECOND)
def test_a_package_says_in_a_few_lines_what_it_is_for(package):
    assert 4 <= len(inspect.getdoc(import_module(f"fewbits.{package}")).splitlines()) <= 8


def test_init_lists_names_and_does_no_work():
    tree = ast.parse(Path(fb.__file__).read_text())
    kinds = {type(node) for node in tree.body[1:]}
    assert kinds <= {ast.ImportFrom, ast.Assign}
    assigned = [ast.unparse(node.targets[0]) for node in tree.body if isinstance(node, ast.Assign)]
    assert assigned == ["__version__", "__all__"]


@pytest.mark.parametrize(("name", "thing"), public("fewbits"), ids=[name for name, _ in public("fewbits")])
def test_a_name_of_the_first_tier_shows_an_example_and_its_arguments(name, thing):
    text = own_docstring(thing)
    assert ">>>" in text
    assert "Args:" in text or not arguments(thing) or issubclass(thing, fb.FewbitsError)


@pytest.mark.parametrize("place", PLACES[1:])
def test_a_name_of_the_second_tier_explains_what_it_takes(place):
    short = [
        name
        for name, thing in public(place)
        if callable(thing) and name not in RESULTS and arguments(thing)
        if len(own_docstring(thing).splitlines()) < 2 or not {"Args:", ">>>"} & set(own_docstring(thing).split())
    ]
    assert short == []


@pytest.mark.parametrize("place", PLACES)
def test_no_docstring_is_a_filler(place):
    fillers = []
    for name, thing in public(place):
        members = [(name, thing)]
        if inspect.isclass(thing):
            members += [(f"{name}.{n}", m) for n, m in vars(thing).items() if not n.startswith("_") and callable(m)]
        fillers += [n for n, m in members if FILLER.match((getattr(m, "__doc__", None) or "").strip() or "ok ok")]
    assert fillers == []


def test_every_documented_argument_exists():
    """`Args:` lists names of the signature only."""
    wrong = []
    for place in PLACES:
        for name, thing in public(place):
            text = own_docstring(thing) if callable(thing) else ""
            block = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)*)", text, re.MULTILINE)
            listed = re.findall(r"^ {4}(\w+):", block[1], re.MULTILINE) if block else []
            wrong += [f"{place}.{name}: {argument}" for argument in listed if argument not in arguments(thing)]
    assert wrong == []
