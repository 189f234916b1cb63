"""Budget: who is asked in a run's rounds, so that its bytes come close to a limit and never above."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import nn

from fewbits.analysis.forecast import forecast
from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Task
from fewbits.engines.simulation.round_report import RoundReport
from fewbits.errors import LocalError
from fewbits.factor.derived import duplicate
from fewbits.learn.method import Method
from fewbits.links import Ledger
from fewbits.privacy.secure_sum.messages import client_bytes
from fewbits.privacy.secure_sum.threshold import needed
from fewbits.rng import Key
from fewbits.sizes import short_size

RECENT = 5  # rounds whose dearest foretells the next one
ENOUGH = 100  # a run ends when less than this part of its budget is left


class Turns(NamedTuple):
    """What the turns of a round's clients cost."""

    clients: int
    up: int  # bytes
    down: int  # bytes

    @property
    def each(self) -> float:
        """Bytes of one turn, both directions."""
        return (self.up + self.down) / self.clients


class Budget:
    """Decides before each round from what travelled so far alone, so a resumed run decides the same.

    A round asks all of its clients when the dearest of the last rounds still fits, and else those of them that fit.
    Under masks these are at least as many as must arrive, so that a sum hides as much as ever. Central noise needs all
    of them, so the run ends there.
    """

    def __init__(self, limit: int | None, method: Method, ledger: Ledger) -> None:
        """`limit`: bytes of the run, both directions; None: there is none."""
        self.limit, self._ledger = limit, ledger
        self._masking, self._whole = method.masking, method.poisson  # the latter: a round asks all drawn, or none
        self._foreknown = method.privacy is not None or self._masking is not None  # frames of one length, none refused
        self._why = ""  # so much of the budget was left
        self._recent: deque[Turns] = deque(maxlen=RECENT)  # of rounds that had a turn
        self._before = {"up": 0, "down": 0}  # the round at hand
        self._too_dear: int | None = None

    @property
    def spent(self) -> int:
        """Bytes of the run so far, both directions."""
        return sum(self._ledger.frame_bytes.values())

    @property
    def left(self) -> int:
        """Bytes that may still travel."""
        return 0 if self.limit is None else self.limit - self.spent

    def start(self, reports: Sequence[RoundReport]) -> None:
        """Go on after these rounds; LocalError when they spent more than the limit."""
        if self.limit is not None and self.left < 0:
            raise LocalError(
                f"budget can be raised, not lowered: the run has spent {short_size(self.spent)}; "
                f"got {short_size(self.limit)}"
            )
        for report in reports:
            self._enter(report.asked, {"up": report.up_frame_bytes, "down": report.down_frame_bytes})
            self._too_dear = report.too_dear

    def clients(self, drawn: list[int], down: Callable[[int], int]) -> list[int] | None:
        """Those of the drawn clients that the next round asks; None: the budget ends the run.

        `down`: bytes of the message that brings a client up to date.
        """
        too_dear, self._too_dear = self._too_dear, None
        if self.limit is None or not self._recent:
            return drawn
        if too_dear is not None and self.left < too_dear:
            self._why = f"a message of {short_size(too_dear)} was next"
            return None
        if self._foreknown:
            return self._at_least(self._least(len(drawn)), drawn, down)
        dearest = max(turns.each for turns in self._recent)
        if len(drawn) * dearest <= self.left:
            return drawn
        self._why = f"a client's turn may cost {short_size(round(dearest))}"
        return None if ENOUGH * self.left <= self.limit else self._fitting(drawn, down) or None

    def _least(self, drawn: int) -> int:
        """Of a round's clients, how many it cannot do without."""
        if self._whole:
            return drawn
        return 1 if self._masking is None else min(drawn, needed(self._masking.threshold, drawn))

    def _at_least(self, least: int, drawn: list[int], down: Callable[[int], int]) -> list[int] | None:
        """The most of the drawn clients, the first ones, whose round fits; None: not even so few do."""
        for count in range(len(drawn), least - 1, -1):
            if self._whole_cost(drawn[:count], down) <= self.left:
                return drawn[:count]
        cost = short_size(round(self._whole_cost(drawn[:least], down)))
        needs = "a client's turn" if least == 1 else f"a round needs at least {least:,} of its clients, which"
        self._why = f"{needs} may cost {cost}"
        return None

    def _fitting(self, drawn: list[int], down: Callable[[int], int]) -> list[int]:
        """Those clients whose turns fit together, in their order."""
        left, up, found = float(self.left), max(turns.up / turns.clients for turns in self._recent), list[int]()
        for client in drawn:
            cost = down(client) + up
            if cost <= left:
                left -= cost
                found.append(client)
        return found

    def _whole_cost(self, drawn: list[int], down: Callable[[int], int]) -> float:
        """Of the next round: as much above the dearest of the last rounds as these differ."""
        ups = [turns.up / turns.clients - self._around(turns.clients)[0] for turns in self._recent]
        each = 2 * max(ups) - min(ups) + sum(self._around(len(drawn)))
        return sum(map(down, drawn)) + len(drawn) * each

    def _around(self, clients: int) -> tuple[int, int]:
        """Bytes (up, down) of the messages around masks, for each client."""
        return client_bytes(clients) if self._masking is not None and clients else (0, 0)

    def refuses(self, cost: int) -> bool:
        """Whether a message of so many bytes would pass the limit; noted for the round's report."""
        if self.limit is None or self._foreknown or cost <= self.left:
            return False
        self._too_dear = cost if self._too_dear is None else min(cost, self._too_dear)
        return True

    def close(self, clients: int) -> int | None:
        """End a round of so many clients; returns the bytes of the smallest message that was refused in it."""
        self._enter(clients, self._ledger.frame_bytes)
        return self._too_dear

    def _enter(self, clients: int, now: Mapping[str, int]) -> None:
        up, down = (now[way] - self._before[way] for way in ("up", "down"))
        self._before = dict(now)
        if clients:
            self._recent.append(Turns(clients, up, down))

    def end(self, rounds: int, gave_up: bool) -> str:
        """How the budget ended a run, and why more than 1% of it is left, if so; or that the run was given up."""
        assert self.limit is not None
        if gave_up:
            return (
                f"the run was given up after {rounds:,} rounds, as it diverges: {short_size(self.spent)} of "
                f"{short_size(self.limit)} spent"
            )
        left = f"; {self._why}, and {short_size(self.left)} are left" if ENOUGH * self.left > self.limit else ""
        return (
            f"the budget ended the run after {rounds:,} round{'s' * (rounds > 1)}: {short_size(self.spent)} of "
            f"{short_size(self.limit)} spent, {self.spent / self.limit:.1%}{left}"
        )


def check_affordable(schedule: Schedule, task: Task, method: Method, key: Key) -> None:
    """LocalError when the first round alone is above the budget, by the forecast of `fewbits plan`."""
    if schedule.budget is None:
        return

    def make() -> nn.Module:
        return duplicate(task.model)

    seeded = bool(task.seed and task.build)
    (found, *_) = forecast(make, method, task.clients, schedule.per_round, 1, key, seeded=seeded)
    if found.total > schedule.budget:
        raise LocalError(
            f"one round of {method.name} costs {short_size(found.total)} by its forecast, more than the budget of "
            f"{short_size(schedule.budget)}; raise the budget, or take a coarser method or fewer clients per round"
        )
