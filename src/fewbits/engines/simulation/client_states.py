"""The states that a resumed run needs: of every client from which a frame was accepted, at both ends."""

from __future__ import annotations

from collections.abc import Set

from fewbits.engines.common.task import Local
from fewbits.engines.simulation.worker import DOWN, OPTIMIZER, UP
from fewbits.errors import LocalError
from fewbits.federated import downlinks, local_round, uplinks
from fewbits.federated.server import Server
from fewbits.learn.local_training import LocalTraining
from fewbits.links import StateStore


def check_states(store: StateStore, server: Server, local: Local, clients: Set[int]) -> None:
    """LocalError names what of these clients' states is missing.

    A round commits the states of its clients before a checkpoint names them. So a killed run lacks none.

    Args:
        store: of the run.
        server: as it was after a checkpoint.
        local: how a client trains.
        clients: those whose frames were accepted.
    """
    for part in _parts(server, local):
        if missing := clients - store.owners(part):
            raise LocalError(
                f"{store.folder}: states of {len(missing)} of the {len(clients)} clients that have sent a frame are "
                f"missing, such as {part} of client {min(missing)}. The run cannot go on without them; put the files "
                "back, or use a new folder"
            )


def _parts(server: Server, local: Local) -> list[str]:
    """What the ends, the method and the local training keep of every client."""
    found = [UP, uplinks.PART]
    if server.downlinks.personal:
        found += [DOWN, downlinks.PART]
    if any(x.numel() for x in server.flat.private) or server.method.objective.client_vectors:
        found.append(local_round.PART)
    if isinstance(local, LocalTraining) and local.keep_optimizer:
        found.append(OPTIMIZER)
    return found
