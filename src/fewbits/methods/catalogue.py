"""The methods by the names they have on the command line."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import permutations

from fewbits.checks import shown
from fewbits.choices import nearest, unknown
from fewbits.codecs import Adaptive
from fewbits.errors import LocalError
from fewbits.learn.method import Method
from fewbits.methods.demo import demo
from fewbits.methods.dense import dense, fedpaq
from fewbits.methods.diloco import diloco
from fewbits.methods.eden import eden
from fewbits.methods.factored import fedpara, fedper, local, lowrank, pfedpara
from fewbits.methods.fetchsgd import fetchsgd
from fewbits.methods.homes import HOMES, played_elsewhere
from fewbits.methods.intrinsic import intrinsic
from fewbits.methods.lbgm import lbgm, lbgm_sign, lbgm_topk
from fewbits.methods.objectives import fedadam, feddyn, fedprox, fedyogi, scaffold
from fewbits.methods.powersgd import powersgd
from fewbits.methods.predict import predict
from fewbits.methods.protected import dp, masked
from fewbits.methods.robust import bounded, geomedian, krum, median, multikrum, trimmed
from fewbits.methods.sparse import deadzone, randk, signsgd, topk
from fewbits.methods.sparseloco import sparseloco
from fewbits.methods.text import read

SOURCE = "Source: "

OVER: Mapping[str, Callable[..., Method]] = {
    "fedpara": fedpara,
    "lowrank": lowrank,
    "pfedpara": pfedpara,
    "fedper": fedper,
    "intrinsic": intrinsic,
    "masked": masked,
    "dp": dp,
    "median": median,
    "trimmed": trimmed,
    "krum": krum,
    "multikrum": multikrum,
    "geomedian": geomedian,
    "bounded": bounded,
}
FACTORED = ("fedpara", "lowrank", "pfedpara", "fedper")  # a subspace may move what these leave to travel
# May stand over the others of these, too, and each one over those before it.
OUTERMOST = ("masked", "dp", "median", "trimmed", "krum", "multikrum", "geomedian", "bounded")
METHODS: Mapping[str, Callable[..., Method]] = {
    "dense": dense,
    "fedpaq": fedpaq,
    "topk": topk,
    "randk": randk,
    "signsgd": signsgd,
    "deadzone": deadzone,
    "eden": eden,
    "powersgd": powersgd,
    "diloco": diloco,
    "sparseloco": sparseloco,
    "demo": demo,
    "lbgm": lbgm,
    "lbgm+topk": lbgm_topk,
    "lbgm+sign": lbgm_sign,
    "predict": predict,
    "fetchsgd": fetchsgd,
    "fedprox": fedprox,
    "scaffold": scaffold,
    "feddyn": feddyn,
    "fedadam": fedadam,
    "fedyogi": fedyogi,
    "local": local,
    **OVER,  # over dense frames; over any other of these by its name after a plus: "fedpara+lbgm+topk"
}
PARTS = sorted({part for name in METHODS for part in name.split("+")})  # layers and methods
MOST_LAYERS = 4


def options(name: str) -> dict[str, object]:
    """A method's options with their defaults; LocalError lists the methods when there is none of that name."""
    outer, inner = _layers(name)
    found = {p.name: p.default for p in inspect.signature(METHODS[outer]).parameters.values() if p.name != "over"}
    return found | (options(inner) if inner else {})


def layers(name: str) -> list[Callable[..., Method]]:
    """What makes a method, outer layers first.

    >>> [make.__name__ for make in layers("fedpara+lbgm+topk")]
    ['fedpara', 'lbgm_topk']
    """
    outer, inner = _layers(name)
    return [METHODS[outer], *(layers(inner) if inner else ())]


def source(make: Callable[..., object]) -> str:
    """The paper of a method, as the last line of its docstring names it.

    >>> source(METHODS["fetchsgd"])
    'Rothchild et al., FetchSGD, ICML 2020'
    """
    *_, last = (inspect.getdoc(make) or "").split("\n")
    return last.removeprefix(SOURCE).removesuffix(".") if last.startswith(SOURCE) else ""


def _layers(name: str) -> tuple[str, str]:
    """`fedpara+topk` as ("fedpara", "topk"), `fedpara` as ("fedpara", "dense"); other methods have nothing inside."""
    outer, plus, inner = name.partition("+")
    if outer not in OVER:
        outer, inner = name, ""
    elif not plus:
        inner = "dense"
    if outer not in METHODS or (outer in OVER and not inner) or _too_deep(outer, inner):
        if sentence := played_elsewhere(name):
            raise LocalError(sentence)
        parts = name.split("+")
        ways = [part for part in parts if part in METHODS and part not in OVER]
        if len(ways) > 1 and all(part in METHODS for part in parts) and _meant(name) is None:
            raise LocalError(
                f"{name}: {' and '.join(ways)} do not stack, as each says how an update travels; take one of them"
            )
        layers = (
            f", or put one of {', '.join(OVER)} over another of them, as in fedpara+lbgm+topk; "
            f"{', '.join((*OUTERMOST[2:], *OUTERMOST[:2]))} may stand over these, as in dp+fedpara+topk"
        )
        raise unknown("method", name, METHODS, layers, _meant(name))
    if (outer, inner) == ("intrinsic", "fetchsgd"):
        raise LocalError(
            "intrinsic+fetchsgd: FetchSGD's server steps on sketches, not in a subspace; choose one of them"
        )
    return outer, inner


def _meant(name: str) -> str | None:
    """The method that a wrong name may mean: other letters, another order of its layers, or a space before options."""
    if (near := nearest(name, [*PARTS, *HOMES])) in HOMES:
        return near
    head, _, rest = re.sub(r"\s*\+\s*", "+", name.strip()).partition(" ")
    parts = [nearest(part, PARTS) for part in head.split("+")]
    if len(parts) > MOST_LAYERS or None in parts:
        return None
    for order in permutations([str(part) for part in parts]):
        found = "+".join(order)
        if found != name and is_method(found):
            return found + (f"@{','.join(rest.split())}" if "=" in rest else "")
    return None


def is_method(name: str) -> bool:
    """Whether there is a method of this name, of several layers if it has any."""
    outer, plus, inner = name.partition("+")
    if name in METHODS:
        return True
    return outer in OVER and bool(plus) and not _too_deep(outer, inner) and is_method(inner)


def _too_deep(outer: str, inner: str) -> bool:
    """Whether `outer` may not stand over a layer that `inner` begins with."""
    below = inner.partition("+")[0]
    if outer == "intrinsic" and below in FACTORED:
        return False
    return below in OVER and (outer not in OUTERMOST or below in OUTERMOST[OUTERMOST.index(outer) :])


def build(text: str, settings: Mapping[str, str] | None = None) -> Method:
    """The method that a text describes: NAME, or NAME@option=value,option=value.

    Args:
        text: the name as `fewbits methods` lists it, with options if any.
        settings: more options as text; one that the text has, too, is taken from here.

    Raises:
        LocalError: there is no such method or option, or a value is not of the option's type.

    >>> build("lbgm+topk@threshold=0.2,fraction=0.01") == build("lbgm+topk", {"fraction": "0.01"})
    True
    """
    found = read(text)
    known = options(found.name)
    return _stacked(found.name, parse_all(found.name, {**found.settings, **(settings or {})}, known))


def named(method: str | Method, settings: Mapping[str, str] | None = None) -> Method:
    """The method itself, or the one that a text describes.

    Args:
        method: a Method, or text that `build` takes.
        settings: options as text, for a method given as text.

    Raises:
        LocalError: as for `build`; or there are settings beside a Method, or `method` is neither.

    >>> named("topk") == named(topk())
    True
    """
    if isinstance(method, str):
        return build(method, settings)
    if not isinstance(method, Method):
        raise LocalError(
            "a method is a text such as 'lbgm+topk', or a Method such as methods.lbgm() or Method.of(up, down); "
            f"got {shown(method)}"
        )
    if settings:
        raise LocalError("settings are for a method given as text; pass a Method that has them")
    return method


def parse_all(
    method: str, settings: Mapping[str, str], known: Mapping[str, object], methods: Iterable[str] = METHODS
) -> dict[str, object]:
    """Options given as text as values of their types.

    Args:
        method: its name.
        settings: its options as text.
        known: its options with their defaults.
        methods: all names; a value that is like one of them may be meant as a method with a label.

    Raises:
        LocalError: there is no such option, or a value has not the option's type.
    """
    for key, value in settings.items():
        if key not in known:
            near, other = nearest(key, known), nearest(value, methods)
            meant = repr(near) if near else f"the method {other!r} with the label {key!r}" if other else ""
            hint = f"did you mean {meant}? " if meant else ""
            has = ", ".join(f"{option}={default}" for option, default in known.items()) or "none"
            raise LocalError(f"method {method!r} has no option {key!r}; {hint}it has {has}")
    return {key: parse(method, key, text, known[key]) for key, text in settings.items()}


def _stacked(name: str, values: Mapping[str, object]) -> Method:
    outer, inner = _layers(name)
    if not inner:
        return METHODS[name](**values)
    inside = options(inner)
    over = _stacked(inner, {key: value for key, value in values.items() if key in inside})
    return METHODS[outer](over, **{key: value for key, value in values.items() if key not in inside})


def parse(method: str, key: str, text: str, default: object) -> object:
    """Text as a value of the default's type."""
    try:
        if key == "threshold" and text.startswith("adaptive:"):
            c, lr, steps = text.removeprefix("adaptive:").split(":")
            return Adaptive(lr=float(lr), steps=int(steps), c=float(c))
        if key == "gamma" and text == "auto":
            return text
        if isinstance(default, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        return text if isinstance(default, str) else int(text) if isinstance(default, int) else float(text)
    except LocalError:
        raise  # a sentence already
    except (KeyError, ValueError):
        kind = "true or false" if isinstance(default, bool) else type(default).__name__
        kind += " or adaptive:C:LR:STEPS" if key == "threshold" else " or auto" if key == "gamma" else ""
        raise LocalError(f"method {method!r}: option {key} must be {kind}, such as {default}; got {text!r}") from None
