"""One model on several machines: every replica sends its pseudo-gradient to all others; bytes in, bytes out."""

from fewbits.replicas.count import Counted
from fewbits.replicas.exchanges import Exchanges, Flight, Make
from fewbits.replicas.gradient_mean import GradientMean
from fewbits.replicas.mean_link import MeanLink
from fewbits.replicas.outer_model import OuterModel
from fewbits.replicas.partners import RandomPartner
from fewbits.replicas.present import RankChange
from fewbits.replicas.replica import Replica
from fewbits.replicas.replicas import Replicas
from fewbits.replicas.terms import AT_ONCE, DENSE, AnyMethod, Streaming, Terms, codec_of, optimizer_of

__all__ = [
    "AT_ONCE",
    "DENSE",
    "AnyMethod",
    "Counted",
    "Exchanges",
    "Flight",
    "GradientMean",
    "Make",
    "MeanLink",
    "OuterModel",
    "RandomPartner",
    "RankChange",
    "Replica",
    "Replicas",
    "Streaming",
    "Terms",
    "codec_of",
    "optimizer_of",
]
