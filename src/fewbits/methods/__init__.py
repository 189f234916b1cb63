"""Methods by name, each after a paper; every option of a method is an argument of its function.

A method says what travels in both directions, how clients train, and how the server steps. Wherever a method is taken,
its text is taken too: `"lbgm+topk@threshold=0.4"` is `lbgm_topk(threshold=0.4)`, and `named` turns one into the other.
`METHODS` lists them by the names that the command line has.
"""

from fewbits.methods.catalogue import METHODS, build, named
from fewbits.methods.demo import demo
from fewbits.methods.dense import dense, fedpaq
from fewbits.methods.diloco import diloco
from fewbits.methods.eden import eden
from fewbits.methods.factored import fedpara, fedper, local, lowrank, pfedpara
from fewbits.methods.fetchsgd import fetchsgd
from fewbits.methods.intrinsic import intrinsic
from fewbits.methods.lbgm import lbgm, lbgm_sign, lbgm_topk
from fewbits.methods.objectives import fedadam, feddyn, fedprox, fedyogi, scaffold
from fewbits.methods.powersgd import powersgd
from fewbits.methods.predict import predict
from fewbits.methods.protected import dp, masked
from fewbits.methods.robust import bounded, geomedian, krum, median, multikrum, trimmed
from fewbits.methods.sparse import deadzone, randk, signsgd, topk
from fewbits.methods.sparseloco import sparseloco

__all__ = [
    "METHODS",
    "bounded",
    "build",
    "deadzone",
    "demo",
    "dense",
    "diloco",
    "dp",
    "eden",
    "fedadam",
    "feddyn",
    "fedpaq",
    "fedpara",
    "fedper",
    "fedprox",
    "fedyogi",
    "fetchsgd",
    "geomedian",
    "intrinsic",
    "krum",
    "lbgm",
    "lbgm_sign",
    "lbgm_topk",
    "local",
    "lowrank",
    "masked",
    "median",
    "multikrum",
    "named",
    "pfedpara",
    "powersgd",
    "predict",
    "randk",
    "scaffold",
    "signsgd",
    "sparseloco",
    "topk",
    "trimmed",
]
