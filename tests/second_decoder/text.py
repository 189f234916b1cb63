"""A codec's text on the wire as (name, fields), and the numbers that are made of it."""

import ast
import hashlib

CONSTANTS = {"true": True, "false": False, "none": None}
# Fields that a text leaves out.
DEFAULTS = {
    "raw": {"dtype": None},
    "randk": {"mode": "contractive"},
    "dct": {"chunk": 64},
    "rotate": {"seed": None},
    "topk": {"chunk": None},
    "sign": {"bucket": "whole", "mode": "contractive", "sizes": 1},
    "error_feedback": {"decay": 1},
    "modular": {"bits": 32},
    "dead_zone": {"bucket": "whole", "levels": 1, "step": 2},
    "blocks": {"count": 1, "least": 0},
    "quantize": {"bucket": "whole", "mode": "unbiased", "norm": "linf"},
    "subspace": {"basis": "fastfood", "scale": "orthonormal", "seed": 7},
    "low_rank": {"columns": None, "passes": 1, "per": "tensor"},
    "mean_sketch": {"mode": "unbiased", "rows": 5, "seed": 7},
    "count_sketch": {"fraction": None, "mode": "unbiased", "rows": 5, "seed": 7},
    "elias": {"code": "gamma"},
    "golomb": {"order": "ascending"},
}


def parse(text):
    return built(ast.parse(text, mode="eval").body)


def built(node):
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name) and not node.args
        name = node.func.id
        given = {x.arg: built(x.value) for x in node.keywords}
        defaults = DEFAULTS.get(name, {})
        assert list(given) == sorted(given) and all(given[x] != defaults[x] for x in given if x in defaults)
        return name, defaults | given
    if isinstance(node, ast.List):
        return [built(x) for x in node.elts]
    if isinstance(node, ast.Name):
        return CONSTANTS[node.id]
    return ast.literal_eval(node)


def identity(text, spec, word=""):
    """(codec, the first history) of frames of a kind, from the codec's and the Spec's text."""
    found = hashlib.blake2b(f"{word}{text}\n{spec}".encode("ascii"), digest_size=8, person=b"fewbits.codec").digest()
    return int.from_bytes(found[:2], "big"), int.from_bytes(found[2:5], "big")
