"""An engine of your own, whose network is a folder of files: python examples/folder_engine.py

It starts a server and three clients, each a process of its own. Point them at a shared folder, and they are an engine.
"""

import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fewbits as fb

METHOD, CLIENTS, SECONDS = "lbgm+topk@fraction=0.1", 3, 60.0


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 4))


def blobs(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Four clouds of points in 20 dimensions: x (100, 20), y (100,)."""
    centres = 1.5 * torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1 + number)
    y = torch.randint(4, (100,), generator=generator)
    return centres[y] + 2.0 * torch.randn(100, 20, generator=generator), y


def put(path: Path, data: bytes) -> None:
    """Write a file that others see whole or not at all."""
    part = path.with_suffix(".part")
    part.write_bytes(data)
    part.replace(path)


def get(path: Path) -> bytes | None:
    """Wait for a file; None when it does not come."""
    until = time.monotonic() + SECONDS
    while not path.exists():
        if time.monotonic() > until:
            return None
        time.sleep(0.01)
    return path.read_bytes()


def serve(folder: Path, rounds: int) -> fb.Server:
    """The server: bundles out, frames in, one step per round."""
    server = fb.Server(build(), METHOD, fb.Key(0).fold("server"))
    for number in range(1, rounds + 1):
        for c in range(CLIENTS):
            put(folder / f"{number}-{c}.down", server.bundle(c))
        for c in range(CLIENTS):
            frame = get(folder / f"{number}-{c}.up")
            if frame is None or server.accept(c, frame, weight=100) is None:
                print(f"round {number}: client {c} is left out: {server.reasons.get(c, 'no frame')}")
        server.step()
    (folder / "end").touch()
    return server


def take_part(folder: Path, number: int) -> None:
    """A client: from the first round that it has not answered until the server ends."""
    key = fb.Key(0).fold("client", number)  # in a real federation: a secret of this client
    client, state = fb.Client(build(), METHOD, key, number), folder / f"client-{number}.state"
    if state.exists():
        client.load(state.read_bytes())  # an earlier process ended; this one continues
    x, y = blobs(number)
    for round in count(1):
        if (folder / f"{round}-{number}.up").exists():
            continue
        while not (folder / f"{round}-{number}.down").exists():
            if (folder / "end").exists():
                return
            time.sleep(0.01)
        client.receive((folder / f"{round}-{number}.down").read_bytes())
        optimizer = torch.optim.SGD(client.model.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            cross_entropy(client.model(x), y).backward()
            optimizer.step()
        frame = client.reply()
        put(state, client.dump())  # before the frame leaves
        put(folder / f"{round}-{number}.up", frame)


def main(rounds: int = 10) -> tuple[float, int]:
    """Start all processes in a temporary folder; the server's accuracy and the bytes both ways."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clients = [subprocess.Popen([sys.executable, __file__, name, str(c)]) for c in range(CLIENTS)]
        server = serve(folder, rounds)
        if any(client.wait() for client in clients):
            raise SystemExit("a client failed")
        sent = sum(path.stat().st_size for way in ("up", "down") for path in folder.glob(f"*.{way}"))
    x, y = blobs(number=99)
    with torch.no_grad():
        accuracy = (server.model(x).argmax(1) == y).float().mean().item()
    print(f"accuracy {accuracy:.1%}; {sent:,} bytes both ways")
    return accuracy, sent


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) == 3:
        take_part(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
