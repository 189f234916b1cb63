"""An optimizer as text: adamw@lr=0.001,weight_decay=0.01, or the name of a function of the parameters."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from fewbits.choices import unknown
from fewbits.cli.named_object import is_named_object, made, named_function
from fewbits.errors import LocalError
from fewbits.methods.text import read

LISTED = {  # LBFGS calls the loss by itself, several times in a step
    name.lower(): found
    for name, found in vars(torch.optim).items()
    if isinstance(found, type) and issubclass(found, Optimizer) and name not in ("Optimizer", "LBFGS")
}


def optimizer(text: str) -> Callable[..., Optimizer]:
    """A function of the parameters that makes an optimizer.

    Args:
        text: NAME@OPTION=VALUE,... with a class of torch.optim, whatever the case of its letters; or module:name.

    Raises:
        LocalError: there is no such optimizer or function, or the optimizer has no such option or value.

    >>> optimizer("adamw@lr=0.01").keywords
    {'lr': 0.01}
    """
    if is_named_object(text.partition("@")[0]):
        return named_function("--optimizer", text, "the parameters, which makes an optimizer")
    found = read(text)
    if found.name.lower() not in LISTED:
        raise unknown("optimizer", found.name, sorted(LISTED), ", or give module:function")
    kind = LISTED[found.name.lower()]
    known = [name for name in inspect.signature(kind).parameters if name != "params"]
    for option in found.settings:
        if option not in known:
            raise LocalError(f"--optimizer {text}: {unknown('option', option, known)}")
    make = partial(kind, **{name: _value(value) for name, value in found.settings.items()})
    made("--optimizer", text, lambda: make([nn.Parameter(torch.zeros(1, 1))]))  # says what is wrong with a value
    return make


def _value(text: str) -> Any:
    """A number, a tuple of them or a truth value; else the text itself.

    >>> _value("0.9"), _value("(0.9,0.99)"), _value("true")
    (0.9, (0.9, 0.99), True)
    """
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        return text
