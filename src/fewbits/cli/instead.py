"""What `fewbits train --method auto` plays with the rest of a budget when the run by its choice diverges."""

from __future__ import annotations

from dataclasses import replace

from fewbits.cli.choice import with_candidate
from fewbits.cli.config import RunConfig
from fewbits.engines.simulation.divergence import gave_up
from fewbits.report import Record
from fewbits.sizes import short_size
from fewbits.training.auto import Choice, rest


def with_instead(config: RunConfig, choice: Choice | None) -> RunConfig:
    """The same run, with what is played instead when it diverges."""
    if choice is None:
        return config
    found = {"method": choice.method, "lr": repr(choice.lr), "why": choice.why}
    return replace(config, instead=found | ({} if choice.falling is None else {"falling": str(choice.falling)}))


def instead(config: RunConfig, record: Record) -> RunConfig | None:
    """The run that comes after this one; None: it did not diverge, or too little of its budget is left."""
    found, budget = config.instead, config.budget_bytes
    if not found or budget is None or not gave_up(record.reports, config.schedule()):
        return None
    left = rest(budget, record.last.bytes)
    if left is None:
        return None
    falling = int(found["falling"]) if "falling" in found else None
    coming = with_candidate(config, found["method"], float(found["lr"]), falling)
    why = f"{record.method} diverged; {short_size(left)} of {config.budget} are left. {found['why']}"
    return replace(coming, chosen=why, budget=f"{left}B", instead={})
