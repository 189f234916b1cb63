"""MetricSums: what a metric counts in a batch, so that batches added up give the figure of the whole test set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fewbits.errors import LocalError


class MetricSums(NamedTuple):
    """Sums over the examples of a batch, and which figure they give.

    Args:
        kind: a name of `FIGURES`.
        sums: of the kind's layout; as many in every batch.

    >>> first, second = MetricSums("mean", (3.0, 4.0)), MetricSums("mean", (2.0, 6.0))
    >>> first.plus(second).figure
    0.5
    """

    kind: str
    sums: tuple[float, ...]

    def plus(self, other: MetricSums) -> MetricSums:
        """Both batches; LocalError where they count other things."""
        if (self.kind, len(self.sums)) != (other.kind, len(other.sums)):
            raise LocalError(
                f"a metric gave {len(self.sums)} sums for {self.kind} in one batch and {len(other.sums)} for "
                f"{other.kind} in another"
            )
        return MetricSums(self.kind, tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)))

    @property
    def figure(self) -> float | None:
        """The metric over all that was added; None: nothing counts, or it is not finite."""
        found = FIGURES[self.kind](self.sums)
        return found if math.isfinite(found) else None


def mean(sums: Sequence[float]) -> float:
    """Of (sum, count)."""
    total, count = sums
    return total / count if count else math.nan


def macro_f1(sums: Sequence[float]) -> float:
    """The mean over classes of 2 tp / (2 tp + fp + fn), of (tp, fp, fn) of each class; absent classes do not count."""
    found = [2 * tp / (2 * tp + fp + fn) for tp, fp, fn in zip(*[iter(sums)] * 3, strict=True) if tp + fp + fn]
    return sum(found) / len(found) if found else math.nan


def r_squared(sums: Sequence[float]) -> float:
    """The mean over outputs of 1 - SSE / SST, of (n, sum y, sum y^2, SSE) of each; NaN where y does not vary."""
    found = []
    for n, y, squares, missed in zip(*[iter(sums)] * 4, strict=True):
        varied = squares - y * y / n if n else 0.0
        found.append(1 - missed / varied if varied > 0 else math.nan)
    return sum(found) / len(found) if found else math.nan


FIGURES: dict[str, Callable[[Sequence[float]], float]] = {"mean": mean, "macro F1": macro_f1, "R2": r_squared}
