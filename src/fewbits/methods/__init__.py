"""Floor 7: named methods, each with its paper; every option of a method is an argument of its function."""

from fewbits.methods.catalogue import METHODS, build
from fewbits.methods.dense import dense, fedpaq
from fewbits.methods.lbgm import lbgm, lbgm_sign, lbgm_topk
from fewbits.methods.predict import predict
from fewbits.methods.sparse import randk, signsgd, topk

__all__ = [
    "METHODS",
    "build",
    "dense",
    "fedpaq",
    "lbgm",
    "lbgm_sign",
    "lbgm_topk",
    "predict",
    "randk",
    "signsgd",
    "topk",
]
