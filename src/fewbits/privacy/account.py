"""PrivacyAccount: what the rounds of a run have cost, against the server and against those who see the models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fewbits.privacy.accountant import epsilon, gaussian_epsilon
from fewbits.privacy.differential_privacy import DifferentialPrivacy

WITH_OR_WITHOUT, REPLACED = "with or without one client", "one client's data replaced"
MOST = 100.0  # a larger epsilon promises nothing; it is printed as "> 100"


@dataclass(frozen=True)
class PrivacyLoss:
    """The epsilons of a run so far, with all that makes them statements.

    Example:
        >>> PrivacyLoss(2.1, "central", WITH_OR_WITHOUT, 1e-5, 50.0).text()
        "2.1 central (with or without one client, delta 1e-05); 50 local (one client's data replaced)"
    """

    epsilon: float  # of `kind`
    kind: str  # "central": against those who see the models alone; "local": against all who see messages, too
    neighbours: str  # of `epsilon`: the data sets that cannot be told apart
    delta: float  # of both epsilons
    local: float  # against the server, for data sets in which one client's data are replaced

    def text(self) -> str:
        """Both figures in words."""
        first = f"{shown(self.epsilon)} {self.kind} ({self.neighbours}, delta {self.delta:.3g})"
        return first if self.kind == "local" else f"{first}; {shown(self.local)} local ({REPLACED})"


def shown(epsilon: float) -> str:
    """An epsilon in three digits.

    >>> shown(2.1014), shown(4e8)
    ('2.1', '> 100')
    """
    return f"{epsilon:.3g}" if epsilon <= MOST else f"> {MOST:.0f}"


class PrivacyAccount:
    """Adds up the rounds of a run.

    "central": every sum has noise of sigma C and every client its own coin, so the sampled Gaussian mechanism composes
    over the rounds. "local": the server knows whom it asked, so nothing is gained by sampling. A client's messages
    compose as Gaussians with sensitivity 2C, and the figure is that of the client with the largest one.

    Args:
        privacy: the run's, with the expected number of clients.
        everybody: number of all clients.
        masked: whether the server sees the sum of a round instead of its messages.

    Example:
        >>> account = PrivacyAccount(DifferentialPrivacy(noise=8.0), everybody=4)
        >>> for _ in range(10):
        ...     account.add([0, 1], arrived=2)
        >>> account.loss().text()
        "3.34 local (one client's data replaced, delta 1e-05)"
    """

    def __init__(self, privacy: DifferentialPrivacy, everybody: int, masked: bool = False) -> None:
        self._privacy, self._everybody, self._masked = privacy, everybody, masked
        self._rounds = 0
        self._spent: dict[int, float] = {}  # by client: the sum of (sensitivity / noise)^2 of what the server saw

    def add(self, clients: Sequence[int], arrived: int) -> None:
        """Count one round: the clients asked, and how many of them are in its sum."""
        self._rounds += 1
        cost = self._cost(len(clients), arrived)
        for client in clients if cost else ():
            self._spent[client] = self._spent.get(client, 0.0) + cost

    def _cost(self, asked: int, arrived: int) -> float:
        """(2 / noise)^2 of what the server sees of one client in a round; 0: it sees nothing."""
        alone = 4.0 / self._privacy.noise**2
        if not self._privacy.central:
            return alone
        if self._masked:  # the sum has the noise of those who arrived; without a sum masks hide everything
            return alone * asked / arrived if arrived else 0.0
        return alone * asked  # each message has 1/asked of the noise, whether it arrives or not

    def loss(self) -> PrivacyLoss:
        """The epsilons after the rounds so far."""
        privacy = self._privacy
        local = gaussian_epsilon(privacy.delta, max(self._spent.values(), default=0.0) ** 0.5)
        if not privacy.central:
            return PrivacyLoss(local, "local", REPLACED, privacy.delta, local)
        rate = min(1.0, privacy.clients / self._everybody)
        central = epsilon(privacy.delta, privacy.noise, rate, self._rounds)
        return PrivacyLoss(central, "central", WITH_OR_WITHOUT, privacy.delta, local)
