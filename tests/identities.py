"""Every class that has an identity on the wire, instances of each, and what of them may never change."""

import importlib
import pkgutil
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, ClassVar

import fewbits
from every_codec import CODECS, TREE
from fewbits.codecs import Adaptive, FetchSGD, LookBack, MeanSketch, Quantize, Raw, as_lift, chain
from fewbits.coders.base import Coder
from fewbits.factor import Factorisation
from fewbits.learn.aggregation import CoordinateMedian, GeometricMedian, Krum, MultiKrum, NormBound, TrimmedMean
from fewbits.learn.gossip.choco import Choco
from fewbits.learn.gossip.deepsqueeze import DeepSqueeze
from fewbits.learn.gossip.dsgd import DSGD
from fewbits.learn.gossip.malcom import Malcom
from fewbits.learn.gossip.prox import L1, GroupL1, NoProx
from fewbits.learn.intrinsic_space import IntrinsicSpace
from fewbits.learn.local import LocalSGD
from fewbits.learn.method import Method
from fewbits.learn.objectives import FedDyn, FedProx, Plain, Scaffold
from fewbits.learn.optimizers import FedAdam, FedDynServer, FedYogi, ServerSGD
from fewbits.learn.optimizers.fetch import FetchServer
from fewbits.links import Downlink
from fewbits.links.identity import codec_hash
from fewbits.privacy.differential_privacy import DifferentialPrivacy
from fewbits.privacy.pairwise_masking import PairwiseMasking
from fewbits.replicas import Streaming
from fewbits.spec import Spec
from fewbits.wire.identity import canonical, wire_field


@dataclass(frozen=True)
class Holder:
    """One value, to see its text."""

    wire_name: ClassVar[str] = "holder"

    value: Any


OPTIONAL = {"fewbits.flower", "fewbits.engines.flower", "fewbits.__main__"}  # frameworks, and a program


def wired() -> dict[str, type]:
    """Every class of the package that declares a wire name, by that name; a name of two classes is an error."""
    found: dict[str, type] = {}
    for info in pkgutil.walk_packages(fewbits.__path__, "fewbits."):
        if any(info.name == name or info.name.startswith(name + ".") for name in OPTIONAL):
            continue
        module = importlib.import_module(info.name)
        for cls in vars(module).values():
            if isinstance(cls, type) and cls.__module__ == module.__name__ and "wire_name" in cls.__dict__:
                assert found.setdefault(cls.wire_name, cls) is cls, f"two classes are called {cls.wire_name!r}"
    return found


def coders() -> list[Coder]:
    """All examples of all coders."""
    return [example for cls in wired().values() if issubclass(cls, Coder) for example in cls.examples()]


def others() -> list[Any]:
    """Values of an identity that are no codec, with every field of a number set."""
    method = Method("lbgm", as_lift(LookBack(Raw()), "m"), Downlink(Raw()), ServerSGD(lr=2), objective=Plain())
    return [
        Spec((3, 4)),
        Spec((6,), "int8", -7, 7, segments=(2, 4)),
        TREE,
        Adaptive(lr=1, steps=5),
        Adaptive(lr=0.1, steps=5, c=2),
        Downlink(Raw()),
        Downlink(fewbits.Delta(Raw()), personal=chain(Quantize(bits=4))),
        FetchSGD(100, momentum=0, lr=2),
        FetchServer(MeanSketch(64), FetchSGD(100)),
        IntrinsicSpace(128, mode="time-varying", epoch=3),
        Streaming(fragments=3, delay=5),
        DifferentialPrivacy(clip=2, noise=1.5),
        PairwiseMasking(largest=2),
        Factorisation(gamma=0.25, skip=("head",)),
        ServerSGD(lr=1, momentum=0),
        FedAdam(lr=1),
        FedYogi(lr=1),
        FedDynServer(alpha=1),
        CoordinateMedian(),
        TrimmedMean(trim=0),
        Krum(liars=0),
        MultiKrum(liars=0, chosen=3),
        GeometricMedian(iterations=8),
        NormBound(times=3),
        Plain(),
        FedProx(mu=1),
        FedDyn(alpha=1),
        Scaffold(),
        LocalSGD(lr=1, momentum=0, clip=5, batch_size=0),
        Choco(Raw(), gamma=1),
        DSGD(Raw(), gamma=1),
        DeepSqueeze(Raw(), gamma=1),
        Malcom(Raw(), gamma="auto", regulariser=GroupL1(1)),
        NoProx(),
        L1(1),
        GroupL1(2),
        method,
    ]


def everything() -> list[Any]:
    """At least one instance of every class of `wired`."""
    transforms = [t for codec in CODECS for t in getattr(codec, "transforms", ())]
    return [*CODECS, *dict.fromkeys(transforms), *coders(), *others()]


def pinned() -> dict[str, Any]:
    """Fields with their defaults by wire name, and text and hash of every codec."""
    return {name: table(cls) for name, cls in wired().items()} | {
        f"{canonical(codec)} hash": f"{codec_hash(as_lift(codec, 'pinned'), TREE):04X}" for codec in CODECS
    }


def table(cls: type) -> dict[str, str | None]:
    """Each field's name on the wire with the text of its default; None where there is none."""
    assert is_dataclass(cls)
    return {wire_field(f): _default(f) for f in fields(cls) if f.compare}


def _default(field: Any) -> str | None:
    if field.default is MISSING and field.default_factory is MISSING:
        return None
    value = field.default_factory() if field.default_factory is not MISSING else field.default
    return canonical(Holder(value)).removeprefix("holder(value=").removesuffix(")")
