"""NormBound: how long an update may be, by the lengths of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fewbits.checks import check_number, check_whole


@dataclass(frozen=True)
class NormBound:
    """Leave out an update whose 2-norm is more than `times` that of the median client.

    ``|u_k| <= times * max(r, m)``: m is the median norm of this round, where it has three updates or more, and r the
    median of the medians of the last `rounds` rounds. Zero norms do not count. Parameters, buffers and control
    variates have a bound each. The norm is that of what was sent, before it is expanded: of decoded entries under
    top-k, of coordinates in a subspace or a sketch, of rho times the look-back vector under LBGM.

    Memory: r, in a few numbers. An update above ``times * r`` waits for the end of its round; so does every update of
    the first round, up to 256 MB or 20 of them. Bytes: none.

    Args:
        times: above 1; larger: fewer honest updates are left out, and a lie may be larger.
        rounds: how many rounds back norms count; larger: slower to follow an honest change.

    Raises:
        LocalError: an argument is out of range.

    Example:
        >>> import fewbits as fb
        >>> fb.methods.named("dense").norm_bound
        NormBound(times=10.0, rounds=9)

    Source: ours; norms are bounded by a constant in Sun et al., Can You Really Backdoor Federated Learning?, 2019.
    """

    wire_name: ClassVar[str] = "norm_bound"

    times: float = 10.0
    rounds: int = 9

    def __post_init__(self) -> None:
        check_number("NormBound: times", self.times, "(1, inf)", numpy=True)
        check_whole("NormBound: rounds", self.rounds, 1, numpy=True)
