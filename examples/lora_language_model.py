"""Which adapter for which bytes: LoRA, FFA-LoRA, a core and LoHa on a small language model, federated.

python examples/lora_language_model.py [ROUNDS]. The model learns a text in one place; 8 clients adapt it to another.
Needs: pip install 'fewbits[peft,data]'. Nothing is downloaded.
"""

import copy
import sys
import warnings

import torch
from peft import LoHaConfig, LoraConfig, PeftModel, get_peft_model
from torch import nn

import fewbits as fb
from loha_language_model import LETTERS, WINDOW, pretrain, read

CLIENTS, RANK = 8, 8


def lora(base: nn.Module, rank: int = RANK) -> PeftModel:
    """LoRA: A and B train, and both travel."""
    torch.manual_seed(1)  # A is drawn
    return get_peft_model(base, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))


def ffa_lora(base: nn.Module) -> PeftModel:
    """FFA-LoRA: A stays as it was drawn, so the mean of the clients' products is the product of their mean."""
    model = lora(base)
    for name, p in model.named_parameters():
        if "lora_A" in name:
            p.requires_grad_(False)
    return model


def core(base: nn.Module) -> PeftModel:
    """Fed-SB's form: r x r numbers between fixed factors."""
    return fb.factor.lora_core(lora(base, 2 * RANK))


def loha(base: nn.Module) -> nn.Module:
    """LoHa: two pairs of factors; the product of two products."""
    torch.manual_seed(1)
    return fb.factor.from_loha(get_peft_model(base, LoHaConfig(r=RANK // 2, alpha=32, target_modules="all-linear")))


def data() -> tuple[list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """Rows of letters for each client, and every tenth row of all as the test set."""
    codes = torch.tensor([min(ord(letter), LETTERS - 1) for letter in read(None)])
    rows = codes[: len(codes) // WINDOW * WINDOW].view(-1, WINDOW)
    test = torch.arange(len(rows)) % 10 == 0
    parts = rows[~test].tensor_split(CLIENTS)
    return [{"input_ids": part, "labels": part} for part in parts], {"input_ids": rows[test], "labels": rows[test]}


def main(rounds: int = 10, pretraining: int = 150) -> dict[str, fb.simulation.Result]:
    base = pretrain(pretraining)
    clients, test = data()
    with torch.no_grad():
        print(f"loss before: {base.eval()(**test).loss:.3f}")
    found = {}
    print(f"{'adapter':<22}{'numbers':>9}{'loss':>7}{'kB up, a turn':>15}{'MB up':>8}{'MB down':>9}")
    for name, adapt, method, lr in (
        ("LoRA", lora, "dense", 0.01),
        ("FFA-LoRA", ffa_lora, "dense", 0.01),
        ("core (Fed-SB)", core, "dense", 0.01),
        ("LoHa", loha, "dense", 0.01),
        ("LoRA, 4 bits", lora, "fedpaq@bits=4,down=delta8", 0.01),
        ("core, 4 bits", core, "fedpaq@bits=4,down=delta8", 0.01),
    ):
        model = adapt(copy.deepcopy(base))
        local = fb.LocalTraining(lambda parameters, lr=lr: torch.optim.AdamW(parameters, lr), batch_size=8, steps=4)
        result = found[name] = fb.federate(model, clients, method, rounds, test=test, local=local, processes=2)
        numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
        up, down = (result.ledger.frame_bytes[way] for way in ("up", "down"))
        each = up / (rounds * CLIENTS) / 1e3
        print(f"{name:<22}{numbers:>9,}{result.loss:>7.3f}{each:>15.2f}{up / 1e6:>8.3g}{down / 1e6:>9.3g}")
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 asks transformers 5 for something by its old name
    main(*map(int, sys.argv[1:]))
