"""Factors: train fewer numbers in place of a weight matrix, in any module.

`fedpara`, `pfedpara` and `lowrank` replace the weights of a module's layers in place; `merge` makes a plain module of
it again. `shared` and `private` name what travels and what stays with a client, `parameter_table` lists the sizes, and
`from_loha` and `to_loha` take PEFT's LoHa adapters; `lora_core` lets its LoRA adapters train a small core, and
`stack_lora` joins those of several ranks. Nothing here knows the wire.
"""

from fewbits.factor.compose import hadamard
from fewbits.factor.factorisation import Factorisation
from fewbits.factor.forms import fedpara, lowrank, pfedpara
from fewbits.factor.jacobian import jacobian_correction
from fewbits.factor.loha import from_loha, to_loha
from fewbits.factor.lora_core import lora_core
from fewbits.factor.merge import merge
from fewbits.factor.names import private, shared
from fewbits.factor.stack_lora import stack_lora
from fewbits.factor.table import ParameterTable, parameter_table

__all__ = [
    "Factorisation",
    "ParameterTable",
    "fedpara",
    "from_loha",
    "hadamard",
    "jacobian_correction",
    "lora_core",
    "lowrank",
    "merge",
    "parameter_table",
    "pfedpara",
    "private",
    "shared",
    "stack_lora",
    "to_loha",
]
