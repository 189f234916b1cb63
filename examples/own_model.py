"""Your own model and your own data, in a few lines: python examples/own_model.py"""

import torch
from torch import nn

import fewbits as fb


def two_moons(examples: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Points on two interleaved half circles: x (examples, 2), y (examples,)."""
    y = torch.randint(2, (examples,), generator=generator)
    angle = torch.rand(examples, generator=generator) * torch.pi
    x = torch.stack([angle.cos(), angle.sin()], dim=1) * (1 - 2 * y[:, None]) + y[:, None] * torch.tensor([1.0, 0.5])
    return x + 0.1 * torch.randn(examples, 2, generator=generator), y


def main(rounds: int = 20) -> fb.simulation.Result:
    generator = torch.Generator().manual_seed(0)
    clients = [two_moons(60, generator) for _ in range(10)]  # one (x, y) pair of tensors each
    model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))

    result = fb.federate(
        model,
        clients,
        fb.methods.lbgm(threshold=0.2, down="delta8"),
        rounds,
        test=two_moons(500, generator),
        local=fb.LocalSGD(lr=0.3, batch_size=10, epochs=2),
        watch=lambda r: print(
            f"round {r.round:2d}  {r.accuracy:.1%}  {r.up_frame_bytes:,} bytes up, {r.recycled:.0%} recycled"
        ),
    )
    last = result.reports[-1]
    print(f"accuracy {result.accuracy:.1%} for {last.up_frame_bytes:,} bytes up and {last.down_frame_bytes:,} down")
    return result


if __name__ == "__main__":
    main()
