"""Fine-tune a small language model with LoHa adapters as all that travels: python examples/loha_language_model.py

A tiny Llama learns English, character by character, from Python's own manual (pydoc_data, in every Python). Ten clients
then adapt it together to another text, of which each holds a piece: scikit-learn's descriptions of data sets, or the
.txt files below --data-dir, such as tinyshakespeare. Needs: pip install 'fewbits[peft,data]'. Nothing is downloaded.
"""

import argparse
import copy
import warnings
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from pydoc_data.topics import topics

import torch
from peft import LoHaConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

import fewbits as fb

CLIENTS, LETTERS, WINDOW, LONGEST = 10, 128, 64, 100_000
LOCAL = fb.LocalSGD(lr=0.3, momentum=0.9, batch_size=8, steps=4, clip=1.0)
# LoHa's gradients are small, since one factor starts at zero and is multiplied by three small ones: a larger step.
LOCAL_LOHA = fb.LocalSGD(lr=3.0, momentum=0.9, batch_size=8, steps=4, clip=1.0)


class Logits(nn.Module):
    """What cross-entropy wants: character numbers (batch, time) to logits (batch, characters, time)."""

    def __init__(self, language_model: nn.Module) -> None:
        super().__init__()
        self.language_model = language_model

    def forward(self, x: Tensor) -> Tensor:
        return self.language_model(input_ids=x, use_cache=False).logits.transpose(1, 2)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    numbers: int  # that travel
    result: fb.simulation.Result


def read(folder: Path | None) -> str:
    source = files("sklearn.datasets.descr") if folder is None else folder
    pages = sorted((p for p in source.iterdir() if p.name.endswith((".rst", ".txt"))), key=lambda page: page.name)
    return "".join(page.read_text(encoding="utf-8") for page in pages)[:LONGEST]


def windows(text: str) -> tuple[Tensor, Tensor]:
    """Character numbers x (n, 64), and y, each one's next."""
    codes = torch.tensor([min(ord(letter), LETTERS - 1) for letter in text])
    n = (len(codes) - 1) // WINDOW
    return codes[: n * WINDOW].view(n, WINDOW), codes[1 : n * WINDOW + 1].view(n, WINDOW)


def split(text: str) -> tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    """One piece of the text per client, and the ends of all pieces, a tenth of each, as the test set."""
    size = len(text) // CLIENTS
    pieces = [windows(text[c * size : (c + 1) * size]) for c in range(CLIENTS)]
    kept = [len(x) - max(1, len(x) // 10) for x, _ in pieces]
    clients = [(x[:n], y[:n]) for (x, y), n in zip(pieces, kept, strict=True)]
    held = [(x[n:], y[n:]) for (x, y), n in zip(pieces, kept, strict=True)]
    return clients, (torch.cat([x for x, _ in held]), torch.cat([y for _, y in held]))


def pretrain(steps: int) -> LlamaForCausalLM:
    """The base model, trained in one place."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # as in the rounds; more threads for so small a model wait for each other
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    language_model = LlamaForCausalLM(LlamaConfig(vocab_size=LETTERS, max_position_embeddings=WINDOW, **shape))
    model, (x, y) = Logits(language_model), windows("\n".join(topics.values()))
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(steps):
        batch = torch.randint(len(x), (32,))
        optimizer.zero_grad()
        cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
        schedule.step()
    return language_model


def adapt(language_model: nn.Module) -> PeftModel:
    with warnings.catch_warnings():  # peft 0.21 asks transformers 5 for something by its old name
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(language_model, LoHaConfig(r=4, alpha=32, target_modules="all-linear"))


def loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return cross_entropy(model.eval()(x), y).item()


def show(rows: list[Row], before: float) -> None:
    print(f"{'what travels':<28}{'numbers':>9}{'loss before':>13}{'after':>7}{'MB up':>8}{'MB down':>9}")
    for row in rows:
        last = row.result.reports[-1]
        up, down = last.up_frame_bytes / 1e6, last.down_frame_bytes / 1e6
        print(f"{row.what:<28}{row.numbers:>9,}{before:>13.3f}{last.loss:>7.3f}{up:>8.3g}{down:>9.3g}")


def main(folder: Path | None = None, rounds: int = 10, pretraining: int = 150) -> list[Row]:
    clients, test = split(read(folder))
    base = pretrain(pretraining)
    peft_model = adapt(copy.deepcopy(base))
    before = loss(Logits(base), *test)
    few = fb.methods.fedpaq(bits=4, down="delta8")
    rows = []
    for what, model, method, local in (
        ("the model, float32", base, fb.methods.dense(), LOCAL),
        ("LoHa factors, float32", fb.factor.from_loha(peft_model), fb.methods.dense(), LOCAL_LOHA),
        ("LoHa factors, 4 and 8 bit", adapted := fb.factor.from_loha(peft_model), few, LOCAL_LOHA),
    ):
        numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
        result = fb.federate(Logits(model), clients, method, rounds, test=test, local=local, processes=2)
        rows.append(Row(what, numbers, result))
    show(rows, before)

    fb.factor.to_loha(adapted, peft_model)  # ready for peft_model.save_pretrained(...)
    with torch.no_grad():
        apart = (Logits(adapted).eval()(test[0]) - Logits(peft_model).eval()(test[0])).abs().max().item()
    print(f"written back into the PEFT model: its logits differ by at most {apart:.1e}")
    if apart > 1e-4:
        raise SystemExit("the PEFT model does not compute what was trained")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Federated fine-tuning by LoHa factors")
    parser.add_argument("--data-dir", type=Path, help="folder with .txt files to adapt to")
    main(parser.parse_args().data_dir)
