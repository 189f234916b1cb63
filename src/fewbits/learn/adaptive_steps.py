"""Whether LBGM's adaptive rule fits the local training: it is about a step size and a number of steps that it knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass

from fewbits.codecs import Adaptive
from fewbits.errors import LocalError


def adaptive_rules(codec: object) -> Iterator[Adaptive]:
    """Every `Adaptive` in a codec, however deep.

    >>> from fewbits import LookBack, Raw, flat
    >>> list(adaptive_rules(flat(LookBack(Raw(), threshold=Adaptive(lr=0.1, steps=5)))))
    [Adaptive(lr=0.1, steps=5, c=1.0)]
    """
    if isinstance(codec, Adaptive):
        yield codec
    elif isinstance(codec, Sequence) and not isinstance(codec, str | bytes):
        for part in codec:
            yield from adaptive_rules(part)
    elif is_dataclass(codec):
        for field in fields(codec):
            yield from adaptive_rules(getattr(codec, field.name))


def check_adaptive(codec: object, client: int, steps: int, lr: float) -> None:
    """LocalError when an adaptive rule of the codec is for other steps than those that a client takes.

    Args:
        codec: of the uplink.
        client: its number, for the message.
        steps: local steps in one round.
        lr: their size.
    """
    for rule in adaptive_rules(codec):
        if rule.steps != steps or rule.lr != lr:
            raise LocalError(
                f"Adaptive(lr={rule.lr:g}, steps={rule.steps}) is for clients that take {rule.steps} steps of size "
                f"{rule.lr:g}; client {client} takes {steps} of {lr:g}. Give all clients the same number of local "
                "steps, and the rule these values"
            )
