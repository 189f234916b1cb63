"""Budget: who is asked in a run's rounds, so that its bytes come close to a limit and never above."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from fewbits.analysis.forecast.longest import longest_frame
from fewbits.engines.simulation.round_report import RoundReport
from fewbits.errors import LocalError
from fewbits.federated.exchange import Exchange
from fewbits.links import Ledger
from fewbits.privacy.secure_sum.messages import client_bytes
from fewbits.privacy.secure_sum.threshold import needed
from fewbits.rng import Key
from fewbits.sizes import short_size

RECENT = 5  # rounds whose dearest foretells the next one
ENOUGH = 100  # a run ends when less than this part of its budget is left


class Turns(NamedTuple):
    """What the turns of a round's clients cost; some client sent a frame."""

    clients: int
    frames: int  # that came; clients that failed sent none
    up: int  # bytes
    down: int  # bytes

    @property
    def frame(self) -> float:
        """Bytes of one frame, with the messages around masks."""
        return self.up / self.frames

    @property
    def each(self) -> float:
        """Bytes of one turn that does not fail, both directions."""
        return self.frame + self.down / self.clients


class Budget:
    """Decides before each round from what travelled so far alone, so a resumed run decides the same.

    A round asks all of its clients when the dearest of the last rounds still fits, and else those of them that fit.
    A message that has no room after all does not travel.

    Under masks and central noise a message must travel once its client was asked, as only sums may depend on messages.
    So their rounds reserve the longest message of every client. Masked rounds have at least as many clients as must
    arrive, so that a sum hides as much as ever. Central noise needs all clients, so the run ends there.

    A message under local noise tells no more by its length than by its values. But its client pays for it with
    privacy. So its longest length is reserved where that is known, and after one without room nobody else is asked.
    """

    def __init__(self, limit: int | None, exchange: Exchange, ledger: Ledger, key: Key) -> None:
        """`limit`: bytes of the run, both directions; None: there is none. `key`: for random updates.

        LocalError when messages of unknown lengths would have to be reserved.
        """
        method = exchange.method
        self.limit, self._ledger = limit, ledger
        self._masking, self._whole = method.masking, method.poisson  # the latter: a round asks all drawn, or none
        self._sums_only = method.masking is not None or method.poisson
        self._protected = self._sums_only or method.privacy is not None
        self._longest = longest_frame(exchange, key) if limit is not None and self._protected else None
        if limit is not None and self._sums_only and self._longest is None:
            raise LocalError(
                f"budget: {method.name} must reserve the longest frame of each client, as it may leave none out, and "
                f"the frames of {exchange.up!r} have no longest one; take frames of one length, or no budget"
            )
        self._why = ""  # so much of the budget was left
        self._recent: deque[Turns] = deque(maxlen=RECENT)  # of rounds in which a frame came
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
        """Go on after these rounds."""
        for report in reports:
            now = {"up": report.up_frame_bytes, "down": report.down_frame_bytes}
            self._enter(report.asked, report.asked - report.skipped - report.unsent, now)
            self._too_dear = report.too_dear

    def clients(self, drawn: list[int], down: Callable[[int], int]) -> list[int] | None:
        """Those of the drawn clients that the next round asks; None: the budget ends the run.

        `down`: bytes of the message that brings a client up to date.
        """
        too_dear, self._too_dear = self._too_dear, None
        if self.limit is None or not (self._sums_only or self.spent):
            return drawn  # the forecast of a first round fits
        if too_dear is not None and self.left < too_dear:
            self._why = f"a message of {short_size(too_dear)} was next"
            return None
        if self._protected:
            return self._at_least(self._least(len(drawn)), drawn, down)
        dearest = max([turns.each for turns in self._recent] or map(down, drawn))
        if len(drawn) * dearest <= self.left:
            return drawn
        self._why = f"a client's turn may cost {short_size(round(dearest))}"
        return None if ENOUGH * self.left <= self.limit else self._fitting(drawn, down) or None

    def _least(self, drawn: int) -> int:
        """Of a round's clients, how many it cannot do without."""
        if self._whole:
            return drawn
        return min(drawn, 1 if self._masking is None else needed(self._masking.threshold, drawn))

    def _at_least(self, least: int, drawn: list[int], down: Callable[[int], int]) -> list[int] | None:
        """The most of the drawn clients, the first ones, whose round fits; None: not even so few do."""
        downs = [down(client) for client in drawn]
        for count in range(len(drawn), least - 1, -1):
            if self._reserve(downs[:count]) <= self.left:
                return drawn[:count]
        needs = "a client's turn" if least == 1 else f"a round needs at least {least:,} of its clients, which"
        self._why = f"{needs} may cost {short_size(round(self._reserve(downs[:least])))}"
        return None

    def _fitting(self, drawn: list[int], down: Callable[[int], int]) -> list[int]:
        """Those clients whose turns fit together, in their order."""
        left, found = float(self.left), list[int]()
        for client in drawn:
            cost = down(client) + self._dearest_frame
            if cost <= left:
                left -= cost
                found.append(client)
        return found

    def _reserve(self, downs: Sequence[int]) -> float:
        """The most that a round costs, with these messages to its clients; an estimate where frames have no longest."""
        around = client_bytes(len(downs)) if self._masking is not None and downs else (0, 0)
        frame = self._dearest_frame if self._longest is None else self._longest
        return sum(downs) + len(downs) * (frame + sum(around))

    @property
    def _dearest_frame(self) -> float:
        return max((turns.frame for turns in self._recent), default=0.0)  # 0: none came so far

    def refuses(self, cost: int) -> bool:
        """Whether a message of so many bytes does not travel, as it would pass the limit; noted for the report."""
        if self.limit is None or self._sums_only:
            return False
        if self._protected and self._too_dear is not None:
            return True
        if cost <= self.left:
            return False
        self._too_dear = cost if self._too_dear is None else min(cost, self._too_dear)
        return True

    def close(self, clients: int, frames: int) -> int | None:
        """End a round of so many clients and frames; returns the bytes of the smallest message refused in it."""
        self._enter(clients, frames, self._ledger.frame_bytes)
        return self._too_dear

    def _enter(self, clients: int, frames: int, now: Mapping[str, int]) -> None:
        up, down = (now[way] - self._before[way] for way in ("up", "down"))
        self._before = dict(now)
        if frames:
            self._recent.append(Turns(clients, frames, up, down))

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
