"""A plain training loop that you own; fewbits only turns models into frames: python examples/plain_loop.py

Lines marked with + are what the library adds to federated averaging written by hand.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fewbits as fb  # +


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 4))


def blobs(client: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Four clouds of points in 20 dimensions: x (200, 20), y (200,)."""
    centres = 1.5 * torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1 + client)
    y = torch.randint(4, (200,), generator=generator)
    return centres[y] + 2.0 * torch.randn(200, 20, generator=generator), y


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    """Local training; fewbits does not see it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(5):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()


def main(rounds: int = 20) -> tuple[float, int]:
    up = fb.flat(fb.LookBack(fb.chain(fb.TopK(0.1), fb.Quantize(bits=4), fb.Rans()), threshold=0.2))  # +
    down = fb.flat(fb.Delta(fb.chain(fb.Quantize(bits=8), fb.Rans())))  # +
    method = fb.Method.of(up, down)  # +
    server = fb.Server(build(), method, fb.Key(0))  # +
    clients = [fb.Client(build(), method, fb.Key(1).fold("client", c), c) for c in range(8)]  # +
    data = [blobs(c) for c in range(8)]
    sent = 0
    for _ in range(rounds):
        for c, (client, (x, y)) in enumerate(zip(clients, data, strict=True)):
            bundle = server.bundle(c)  # + bytes, over any network you like
            client.receive(bundle)  # +
            train(client.model, x, y)  # whatever you do today
            frame = client.reply()  # + bytes, back again
            server.accept(c, frame, weight=len(y))  # +
            sent += len(bundle) + len(frame)
        server.step()  # +
    x, y = blobs(client=99)
    with torch.no_grad():
        accuracy = (server.model(x).argmax(1) == y).float().mean().item()
    dense = 2 * rounds * len(clients) * 4 * sum(p.numel() for p in server.model.parameters())
    print(f"accuracy {accuracy:.1%}; {sent:,} bytes both ways, where float32 both ways would be {dense:,}")
    return accuracy, sent


if __name__ == "__main__":
    main()
