"""Metric functions: the user's functions of the clients' metrics, which meet whatever a client reports.

What one raises costs the metrics of its round. Where replies differ in form, it sees those that most clients sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flwr.app import Message, MetricRecord
from flwr.serverapp.strategy import Strategy

from fewbits.engines.common.failed_turn import sentence

TRAIN, EVALUATE = "train_metrics_aggr_fn", "evaluate_metrics_aggr_fn"  # Flower's names
Say = Callable[[str], None]


def tried(name: str, function: Callable[..., Any], most: Sequence[Message], say: Say) -> Callable[..., Any]:
    """The function, on the replies of `most` clients where there are some; an empty record for what it raises."""

    def metrics(contents: Any, *more: Any, **named: Any) -> Any:
        try:
            return function([message.content for message in most] or contents, *more, **named)
        except Exception as error:  # noqa: BLE001 - the user's attributes code may raise anything
            say(f"{name} failed, so that the round has no such metrics: {sentence(error)}")
            return MetricRecord()

    return metrics


@contextmanager
def in_place(strategy: Strategy, name: str, most: Sequence[Message], say: Say) -> Iterator[None]:
    """While the strategy aggregates, put `tried` in place of its function of that name, if it has one."""
    function, attributes = getattr(strategy, name, None), vars(strategy)
    if function is None:
        yield
        return
    mine = name in attributes  # else a method of its class
    setattr(strategy, name, tried(name, function, most, say))
    try:
        yield
    finally:
        if mine:
            attributes[name] = function
        else:
            del attributes[name]
