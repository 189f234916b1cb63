"""Flower's own simulation of a federation over digits, in a process of its own; prints what came of it as JSON.

python flower_simulation.py FOLDER CLIENTS ROUNDS THRESHOLD
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

import fewbits
from digits_task import KEY, mlp, task
from fewbits.engines.flower import Federated, mod
from fewbits.links.ledger import read
from flower_task import app


def main(folder: Path, clients: int, rounds: int, threshold: float) -> None:
    """Simulate, one CPU per client process."""
    torch.set_num_threads(1)
    method = fewbits.methods.lbgm_topk(threshold=threshold)
    server_app, found = ServerApp(), {}

    @server_app.main()
    def run(grid: Grid, context: Context) -> None:
        strategy = Federated(method, clients, key=KEY, state=folder / "server", evaluate=0.0)
        result = strategy.start(
            grid, ArrayRecord(mlp().state_dict()), num_rounds=rounds, timeout=400
        )  # Ray itself may take 100 s
        state = b"".join(x.numpy().tobytes() for x in result.arrays.to_torch_state_dict().values())
        found["model"] = hashlib.sha256(state).hexdigest()
        found["notes"] = strategy.channel.notes

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2}}
    run_simulation(server_app, app(task(clients), [mod(method, KEY)]), clients, backend_config=resources)
    entries = read(folder / "server" / "ledger.jsonl")
    found["frames"] = sorted([e.round, e.client, e.direction, e.frame_bytes, e.payload_bytes] for e in entries)
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
