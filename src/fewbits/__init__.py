"""fewbits: train one model across many machines while sending almost nothing, and count every byte.

`import fewbits as fb` gives the first tier: what a program that uses fewbits needs. The next tier is in packages for
those who build codecs, links or runs of their own: `fb.codecs`, `fb.coders`, `fb.links`, `fb.learn`, `fb.factor`,
`fb.topology`, `fb.privacy`, `fb.metrics`, `fb.simulation` and `fb.distributed`. `fewbits.flower` and
`fewbits.testing` are imported by name.
"""

from fewbits import ctrl_c  # noqa: F401 - before all others: a command listens to Ctrl-C while they are imported

# isort: split
from fewbits import codecs, coders, distributed, factor, learn, links, methods, metrics, privacy, simulation, topology
from fewbits.codecs import (
    Delta,
    ErrorFeedback,
    LookBack,
    LowRank,
    Predict,
    Quantize,
    RandK,
    Raw,
    Sign,
    Subspace,
    TopK,
    chain,
    each,
    flat,
    route,
)
from fewbits.coders import Auto, Elias, Fixed, Golomb, Rans, Zstd
from fewbits.comparison import compare
from fewbits.errors import DesyncError, FewbitsError, LocalError, PeerLostError, WireError
from fewbits.factor import fedpara, merge, pfedpara, shared
from fewbits.federated import Client, Server
from fewbits.learn import LocalSGD, LocalTraining, Method, ServerSGD
from fewbits.links import Receiver, Sender, load_model, save_model
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.training import federate, gossip

__version__ = "0.1.0"

__all__ = [
    "Auto",
    "Client",
    "Delta",
    "DesyncError",
    "Elias",
    "ErrorFeedback",
    "FewbitsError",
    "Fixed",
    "Golomb",
    "Key",
    "LocalError",
    "LocalSGD",
    "LocalTraining",
    "LookBack",
    "LowRank",
    "Method",
    "PeerLostError",
    "Predict",
    "Quantize",
    "RandK",
    "Rans",
    "Raw",
    "Receiver",
    "Sender",
    "Server",
    "ServerSGD",
    "Sign",
    "Spec",
    "Subspace",
    "TopK",
    "WireError",
    "Zstd",
    "chain",
    "codecs",
    "coders",
    "compare",
    "distributed",
    "each",
    "factor",
    "federate",
    "fedpara",
    "flat",
    "gossip",
    "learn",
    "links",
    "load_model",
    "merge",
    "methods",
    "metrics",
    "pfedpara",
    "privacy",
    "route",
    "save_model",
    "shared",
    "simulation",
    "topology",
]
