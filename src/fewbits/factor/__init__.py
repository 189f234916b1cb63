"""FedPara, pFedPara and low-rank factorisations of the weights of any module; nothing here knows the wire."""

from fewbits.factor.compose import hadamard
from fewbits.factor.factorisation import Factorisation
from fewbits.factor.forms import fedpara, lowrank, pfedpara
from fewbits.factor.jacobian import jacobian_correction
from fewbits.factor.merge import merge
from fewbits.factor.names import private, shared
from fewbits.factor.table import ParameterTable, parameter_table

__all__ = [
    "Factorisation",
    "ParameterTable",
    "fedpara",
    "hadamard",
    "jacobian_correction",
    "lowrank",
    "merge",
    "parameter_table",
    "pfedpara",
    "private",
    "shared",
]
