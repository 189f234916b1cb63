"""Compare three methods on a sequence classifier of Hugging Face: texts of several lengths, AdamW with warm-up, F1.

python examples/sequence_classifier.py. It prints the table, and runs/classifier/report.html is the page. A text with
the word 5 is of class 1; these are one of four. Needs: pip install 'fewbits[peft]'. Nothing is downloaded.
"""

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification, get_linear_schedule_with_warmup

import fewbits as fb


def pad(rows):
    ids, labels = pad_sequence([ids for ids, _ in rows], batch_first=True), torch.tensor([y for _, y in rows])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


def main(out="runs/classifier", rounds=16, seeds=(0, 1, 2)):
    torch.manual_seed(0)
    texts = [torch.randint(6, 50, (length,)) for length in torch.randint(5, 13, (300,)).tolist()]
    rows = [(text.index_fill(0, torch.tensor(2), 5), 1) if i % 4 == 0 else (text, 0) for i, text in enumerate(texts)]
    *clients, test = [DataLoader(rows[i::5], batch_size=10, shuffle=True, collate_fn=pad) for i in range(5)]
    test = DataLoader(test.dataset, batch_size=100, collate_fn=pad)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForSequenceClassification(BertConfig(vocab_size=50, **sizes))
    local = fb.LocalTraining(lambda p: torch.optim.AdamW(p, 3e-3), lambda o: get_linear_schedule_with_warmup(o, 2, 24))
    weighted = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]))
    options = {"test": test, "local": local, "metric": fb.metrics.f1}
    options["loss"] = lambda output, y: weighted(output.logits, y)
    return fb.compare(model, clients, "dense,lbgm+topk,intrinsic@dim=500", seeds, rounds, out=out, **options)


if __name__ == "__main__":
    print(main())
