"""Bytes of the same update, bit for bit, in the formats that others send and in ours.

    python papers/slow-links/recode.py [--data-dir DIR] [--width 768]    # 5 GB of memory, some ten minutes

Two updates: random numbers in the shapes of GPT-2 (124M parameters); with --data-dir (a folder with input.txt of
tinyshakespeare), also the third pseudo-gradient of a small GPT that is trained here, as SparseLoCo would send it. Each
row really encodes and decodes. Formats of one method give the same values; where they would not, the script stops.
Seconds are of one thread's processor time. Memory is what the row's own process takes beyond the update.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import fewbits as fb
from fewbits.codecs import Rotate
from fewbits.federated.compile_kernels import compile_lift
from fewbits.spec import Spec, TreeSpec

CHUNK, KEPT, DECAY = 4096, 64, 0.95  # SparseLoCo's
LOCO = fb.chain(fb.TopK(KEPT / CHUNK, chunk=CHUNK), fb.Sign(sizes=2), fb.Rans())  # and feedback around it
WIDTH, BLOCKS, WORDS, PLACES = 768, 12, 50_257, 1024  # GPT-2
STEPS, OUTER, BATCH, CONTEXT = 30, 3, 16, 64  # of the small model: inner steps, outer steps, windows, characters
Update = dict[str, Tensor]


class Row(NamedTuple):
    """What one format costs."""

    size: int  # bytes, of a frame with its header where it is ours
    kept: int  # entries that are not zero
    encode: float  # seconds
    decode: float
    memory: int  # bytes
    digest: int  # of the decoded values


def gpt2(width: int = WIDTH) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Shapes of GPT-2 small: 124,439,808 parameters; the output layer shares the words' weights."""
    yield from (("wte", (WORDS, width)), ("wpe", (PLACES, width)), ("ln_f.weight", (width,)), ("ln_f.bias", (width,)))
    for i in range(BLOCKS):
        for name, rows, columns in (("qkv", width, 3 * width), ("proj", width, width)):
            yield from ((f"{i}.{name}.weight", (rows, columns)), (f"{i}.{name}.bias", (columns,)))
        for name, rows, columns in (("up", width, 4 * width), ("down", 4 * width, width)):
            yield from ((f"{i}.{name}.weight", (rows, columns)), (f"{i}.{name}.bias", (columns,)))
        yield from ((f"{i}.ln_{j}.{part}", (width,)) for j in (1, 2) for part in ("weight", "bias"))


def random_update(width: int) -> Update:
    """Normal numbers, all of one size: nothing in them helps a coder."""
    shapes = dict(gpt2(width))
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    whole = torch.randn(sum(sizes), generator=fb.Key(0).generator())
    return {name: x.view(shape) for (name, shape), x in zip(shapes.items(), whole.split(sizes), strict=True)}


class SmallGPT(nn.Module):
    """About 0.8M parameters, over characters."""

    def __init__(self, characters: int, width: int = 128) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.characters, self.places = nn.Embedding(characters, width), nn.Embedding(CONTEXT, width)
        self.blocks, self.last = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:  # (batch, CONTEXT) -> (batch, CONTEXT, characters)
        mask = nn.Transformer.generate_square_subsequent_mask(CONTEXT)
        h = self.blocks(self.characters(x) + self.places.weight, mask=mask, is_causal=True)
        return self.last(h) @ self.characters.weight.T


def trained_update(folder: Path) -> Update:
    """What SparseLoCo compresses after its third 30 AdamW steps: decay * what was not sent + the pseudo-gradient."""
    text = torch.from_numpy(
        np.unique(np.frombuffer((folder / "input.txt").read_bytes(), np.uint8), return_inverse=True)[1]
    )
    draws, loss = fb.Key(1).generator(), torch.zeros(())
    torch.manual_seed(0)
    model = SmallGPT(int(text.max()) + 1)
    nn.init.normal_(model.characters.weight, std=0.02)
    inner = torch.optim.AdamW(model.parameters(), 1e-3)
    spec, codec = Spec((sum(p.numel() for p in model.parameters()),)), fb.ErrorFeedback(LOCO, decay=DECAY)
    sender, update = fb.Sender(codec, spec, fb.Key(2)), torch.zeros(spec.numel)
    for outer in range(OUTER):
        start = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        for _ in range(STEPS):
            at = torch.randint(len(text) - CONTEXT - 1, (BATCH,), generator=draws)
            window = torch.stack([text[i : i + CONTEXT + 1] for i in at.tolist()])
            loss = nn.functional.cross_entropy(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())
            inner.zero_grad()
            loss.backward()
            inner.step()
        change = start - nn.utils.parameters_to_vector(model.parameters()).detach()
        update = change + DECAY * sender.memory[0][0]
        if outer < OUTER - 1:
            sender.send(change)
            nn.utils.vector_to_parameters(start - 0.7 * sender.value, model.parameters())
            sender.commit()
    print(f"the small GPT: {spec.numel:,} parameters, loss {float(loss.detach()):.2f} after {OUTER * STEPS} steps")
    shapes = {name: p.shape for name, p in model.named_parameters()}
    parts = update.split([shape.numel() for shape in shapes.values()])
    return {name: x.view(shape) for (name, shape), x in zip(shapes.items(), parts, strict=True)}


def ours(codec: fb.codecs.Codec, update: Update) -> Row:
    """A frame of ours, header included."""
    spec = Spec.of(update)
    assert isinstance(spec, TreeSpec)
    lift = fb.flat(codec)
    compile_lift(lift, spec)
    sender, receiver = fb.Sender(lift, spec, fb.Key(3)), fb.Receiver(lift, spec)
    frame, there = timed(lambda: sender.send(update))
    value, back = timed(lambda: receiver.receive(frame))
    return row(len(frame), torch.cat([x.flatten() for x in value.values()]), there, back)


def published(value_bits: int) -> Callable[[np.ndarray], Row]:
    """SparseLoCo's format: for each entry 12 bits of its place in its chunk, and its code in so many bits."""

    def of(sent: np.ndarray) -> Row:
        data, there = timed(lambda: pack(sent, value_bits))
        value, back = timed(lambda: unpack(data, value_bits, len(sent)))
        return row(sum(len(part) for part in data), torch.from_numpy(value), there, back)

    return of


def pack(sent: np.ndarray, value_bits: int) -> tuple[bytes, bytes, bytes]:
    """Places, codes and codebook."""
    places = np.flatnonzero(sent)
    codebook, codes = np.unique(sent[places], return_inverse=True)
    return bits(places % CHUNK, 12), bits(codes, value_bits), codebook.astype("<f4").tobytes()


def unpack(data: tuple[bytes, bytes, bytes], value_bits: int, n: int) -> np.ndarray:
    """The vector; each whole chunk has as many entries as the others, and the last one the rest."""
    codebook = np.frombuffer(data[2], "<f4")
    count = 8 * len(data[0]) // 12
    out = np.zeros(n, np.float32)
    chunk = np.minimum(np.arange(count) // KEPT, (n - 1) // CHUNK)
    out[chunk * CHUNK + numbers(data[0], 12, count)] = codebook[numbers(data[1], value_bits, count)]
    return out


def bits(values: np.ndarray, width: int) -> bytes:
    """Each value in so many bits, end to end."""
    each = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)
    return np.packbits(each[:, 16 - width :]).tobytes()


def numbers(data: bytes, width: int, count: int) -> np.ndarray:
    """Back from `bits`."""
    found = np.unpackbits(np.frombuffer(data, np.uint8), count=count * width).reshape(count, width)
    return np.packbits(np.pad(found, ((0, 0), (16 - width, 0))), axis=1).view(">u2").ravel().astype(np.int64)


def row(size: int, value: Tensor, there: float, back: float) -> Row:
    """The row of a vector that arrived; `apart` adds its memory."""
    return Row(size, int(value.count_nonzero()), there, back, 0, zlib.crc32(value.numpy().tobytes()))


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """(result, seconds of processor time)."""
    began = time.process_time()
    return work(), time.process_time() - began


def apart(work: Callable[[], Row]) -> Row:
    """The row, from a process of its own, with the memory that it took beyond what was there."""

    def measured() -> Row:
        before = resident()
        found = work()
        return found._replace(memory=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

    return Row(*apart_json(measured))


def apart_json(work: Callable[[], Any]) -> Any:
    """What the work returns, from a process of its own, through JSON."""
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            os.write(write, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as source:
        return json.loads(source.read())


def resident() -> int:
    """Memory of this process, bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def formats(update: Update) -> Iterator[tuple[str, list[tuple[str, Callable[[], Row]]]]]:
    """(method, [(format, work)]); formats of one method give the same values."""
    whole = torch.cat([x.flatten() for x in update.values()])
    spec = Spec((len(whole),))
    sent = fb.Receiver(LOCO, spec).receive(fb.Sender(LOCO, spec, fb.Key(3)).send(whole)).numpy()
    del whole
    yield (
        "SparseLoCo, 64 of 4,096",
        [
            ("as the code stores it, 12 + 8 bits", lambda: published(8)(sent)),
            ("packed, 12 + 2 bits", lambda: published(2)(sent)),
            ("ours", of(LOCO, update)),
        ],
    )
    for width, scale in ((4, "whole"), (4, "tensor"), (8, "whole")):
        levels = fb.Quantize(bits=width, bucket=scale)
        kinds = (("packed", fb.Fixed()), ("ours, Zstd", fb.Zstd()), ("ours, Rans", fb.Rans()))
        yield (
            f"DiLoCo, {width} bit, scale: {scale}",
            [(name, of(fb.chain(levels, coder), update)) for name, coder in kinds],
        )
    for name, step in (("PowerSGD, rank 4", fb.LowRank(4)), ("float32", fb.Raw())):
        kinds = (("as it is", fb.Fixed()), ("ours, Rans", fb.Rans()))
        yield name, [(kind, of(fb.chain(step, coder), update)) for kind, coder in kinds]
    for width in (1, 2):
        step = fb.chain(Rotate(), fb.Sign(sizes=width, mode="unbiased"), fb.Rans())
        yield f"EDEN, {width} bit", [("ours", of(step, update))]


def of(codec: fb.codecs.Codec, update: Update) -> Callable[[], Row]:
    """The work of a row."""
    return lambda: ours(codec, update)


def table(update: Update) -> None:
    """Print one update's rows as Markdown."""
    n = sum(x.numel() for x in update.values())
    print(f"\n{n:,} numbers\n")
    print(
        "| method | format | bytes | × fewer than float32 | bits per number sent | encode, s | decode, s | memory, MB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for method, rows in formats(update):
        digests = set()
        for name, work in rows:
            found = apart(work)
            digests.add(found.digest)
            sent = found.kept if method.startswith("SparseLoCo") else n
            print(
                f"| {method} | {name} | {found.size:,} | {4 * n / found.size:.1f} | {8 * found.size / sent:.2f} "
                f"| {found.encode:.2f} | {found.decode:.2f} | {found.memory / 1e6:,.0f} |",
                flush=True,
            )
        assert len(digests) == 1, f"{method}: the formats do not carry the same values"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder with input.txt; without it, no small GPT is trained")
    parser.add_argument("--width", type=int, default=WIDTH, help="of GPT-2; smaller: a quick look")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table(random_update(options.width))
    if options.data_dir is not None:
        table(trained_update(options.data_dir))


if __name__ == "__main__":
    main()
