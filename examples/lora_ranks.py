"""LoRA with a rank of its own for each client: padding against stacking, in bytes and loss.

python examples/lora_ranks.py [--rounds 10] [--seeds 0 1 2]. A network has learned digits that lie on their side; 8
clients adapt it to upright ones. Every frame is encoded and decoded. Needs: pip install 'fewbits[peft,data]'.
"""

import argparse
import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fewbits as fb
from fewbits import data

RANKS = (2, 2, 2, 2, 4, 4, 8, 8)  # of the clients
State = dict[str, Tensor]
Runs = dict[str, list[list[tuple[float, int, int]]]]  # by name and seed: (test loss, bytes up, bytes down) of rounds


def train(model: nn.Module, x: Tensor, y: Tensor, draw: torch.Generator, steps: int, lr: float) -> nn.Module:
    """AdamW on batches of 16."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr)
    for _ in range(steps):
        rows = torch.randint(len(y), (16,), generator=draw)
        optimizer.zero_grad()
        cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model


def lora(base: nn.Module, rank: int, seed: int) -> PeftModel:
    """A new adapter of that rank on a copy; its scale is 1."""
    torch.manual_seed(seed)
    return get_peft_model(copy.deepcopy(base), LoraConfig(r=rank, lora_alpha=rank, target_modules=["1", "3", "5"]))


def sent(state: Mapping[str, Tensor], key: fb.Key) -> tuple[State, int]:
    """The adapter as it arrives, and the length of its frame."""
    spec, codec = fb.Spec.of(state), fb.flat(fb.chain(fb.codecs.Raw()))
    frame = fb.Sender(codec, spec, key).send(state)
    return dict(fb.Receiver(codec, spec).receive(frame)), len(frame)


def cut(state: Mapping[str, Tensor], rank: int) -> State:
    """The first rows of A and columns of B."""
    return {name: (x[:rank] if "lora_A" in name else x[:, :rank]).contiguous() for name, x in state.items()}


def padded(state: Mapping[str, Tensor], rank: int) -> State:
    """With zeros up to the largest rank."""
    return {
        name: nn.functional.pad(x, (0, 0, 0, rank - len(x)) if "lora_A" in name else (0, rank - x.shape[1]))
        for name, x in state.items()
    }


class Padding:
    """The mean of padded factors, of which a client gets the first part. `fixed`: A stays as drawn, so it is exact."""

    def __init__(self, base: nn.Module, seed: int, fixed: bool) -> None:
        self.base, self.fixed = base, fixed
        self.model = lora(base, max(RANKS), seed)
        self.down = cut(get_peft_model_state_dict(self.model), max(RANKS))

    def travels(self, state: Mapping[str, Tensor]) -> State:
        return {name: x for name, x in state.items() if not self.fixed or "lora_B" in name}

    def client(self, client: int, number: int) -> tuple[PeftModel, int]:
        model = lora(self.base, RANKS[client], 0)
        arrived, size = sent(self.travels(cut(self.down, RANKS[client])), fb.Key(number))
        set_peft_model_state_dict(model, cut(self.down, RANKS[client]) | arrived)
        for name, p in model.named_parameters():
            p.requires_grad_("lora_B" in name or ("lora_A" in name and not self.fixed))
        return model, size

    def step(self, states: Sequence[State], weights: Sequence[float]) -> nn.Module:
        full = [padded(state, max(RANKS)) for state in states]
        self.down |= {name: sum(w * x[name] for w, x in zip(weights, full, strict=True)) for name in full[0]}
        set_peft_model_state_dict(self.model, self.down)
        return self.model


class Stacking:
    """All factors to every client, which adds their product to its weights; then each begins with a new adapter."""

    def __init__(self, base: nn.Module, seed: int) -> None:
        self.base, self.seed, self.down = copy.deepcopy(base), seed, dict[str, Tensor]()

    def travels(self, state: Mapping[str, Tensor]) -> State:
        return dict(state)

    def client(self, client: int, number: int) -> tuple[PeftModel, int]:
        size = sent(self.down, fb.Key(number))[1] if self.down else 0  # all clients start with the base
        return lora(self.base, RANKS[client], 1000 * self.seed + 10 * number + client), size

    def step(self, states: Sequence[State], weights: Sequence[float]) -> nn.Module:
        self.down = fb.factor.stack_lora(states, weights)
        model = lora(self.base, sum(RANKS), 0)
        set_peft_model_state_dict(model, self.down)
        self.base = model.merge_and_unload()
        return self.base


def play(how: Padding | Stacking, seed: int, rounds: int, lr: float) -> Iterator[tuple[float, int, int]]:
    """(test loss, bytes up, bytes down) of each round."""
    found = data.load("digits")
    parts = data.partition(found.train_y, "dirichlet:0.3", len(RANKS), fb.Key(seed), None)
    weights = [len(part) / len(found.train_y) for part in parts]
    for number in range(1, rounds + 1):
        states, up, down = [], 0, 0
        for client, part in enumerate(parts):
            model, size = how.client(client, number)
            draw = fb.Key(seed).fold("round", number, "client", client).generator()
            train(model, found.train_x[part], found.train_y[part], draw, 8, lr)
            state, frame = sent(how.travels(get_peft_model_state_dict(model)), fb.Key(number))
            states.append(state)
            up, down = up + frame, down + size
        with torch.no_grad():
            yield float(cross_entropy(how.step(states, weights)(found.test_x), found.test_y)), up, down


@cache
def pretrained(seed: int) -> nn.Module:
    """A network for digits that lie on their side."""
    torch.manual_seed(seed)
    found, relu = data.load("digits"), nn.ReLU()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 96), relu, nn.Linear(96, 96), relu, nn.Linear(96, 10))
    return train(model, found.train_x.rot90(1, (2, 3)), found.train_y, fb.Key(seed).generator(), 400, 0.003)


def main(
    rounds: int = 10, seeds: Sequence[int] = (0, 1, 2), lr: float = 0.01
) -> dict[str, list[list[tuple[float, int, int]]]]:
    runs: Runs = {}
    print(f"{'aggregation':<22}{'loss':>14}{'least to most':>18}{'kB up':>9}{'kB down, a turn':>17}")
    before: list[float] = []
    for name in ("padding", "padding, A fixed", "stacking"):
        runs[name] = []
        for seed in seeds:
            base, found = pretrained(seed), data.load("digits")
            with torch.no_grad():
                before.append(float(cross_entropy(base(found.test_x), found.test_y)))
            how = Stacking(base, seed) if name == "stacking" else Padding(base, seed, "fixed" in name)
            runs[name].append(list(play(how, seed, rounds, lr)))
        last = [run[-1][0] for run in runs[name]]
        turns = len(RANKS) * rounds * len(seeds)
        up, down = (sum(row[i] for run in runs[name] for row in run) / turns / 1e3 for i in (1, 2))
        spread = f"{min(last):.3f} to {max(last):.3f}"
        print(f"{name:<22}{sum(last) / len(last):>14.3f}{spread:>18}{up:>9.2f}{down:>17.2f}", flush=True)
    print(f"before: {sum(before) / len(before):.3f}")
    return runs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--lr", type=float, default=0.03, help="of the clients' AdamW")
    main(**vars(parser.parse_args()))
