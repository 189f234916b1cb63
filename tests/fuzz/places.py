"""The places that read outside bytes, each in the middle of its work, with bytes that it would take."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from every_codec import CODECS, ends, payload_of, restamp, stream
from fewbits.cli.config import RunConfig
from fewbits.codecs import Basis, Delta, Quantize, Raw, chain, flat
from fewbits.coders import Rans
from fewbits.engines.flower import carried
from fewbits.engines.flower.envelope import Envelope, checksum, described, opened, restored, value
from fewbits.engines.flower.layout import Entry, Layout
from fewbits.errors import FewbitsError
from fewbits.links import Broadcast, Subscriber, ledger
from fewbits.links.bundle import pack, unpack
from fewbits.links.client_state import dump_client_state, load_client_state
from fewbits.links.epochs import EpochBroadcast, EpochSubscriber
from fewbits.rng import Key
from fewbits.spec import Spec

MODEL = {"weight": torch.linspace(-1, 1, 35).reshape(5, 7), "bias": torch.ones(5), "gain": torch.tensor(0.5)}


class Place(ABC):
    """Something that reads bytes."""

    name: str
    model_bytes = 4 * 41

    @abstractmethod
    def samples(self) -> Iterator[tuple[bytes, bool]]:
        """(bytes it would take, whether they are only what is under a checksum)."""

    @abstractmethod
    def read(self, data: bytes, stamped: bool) -> None:
        """Read; the library's own errors may come."""

    def attack(self, data: bytes, stamped: bool) -> None:
        """Read, whatever comes of it."""
        with suppress(FewbitsError):
            self.read(data, stamped)


class Link(Place):
    """The receiving end of a link after two frames; also the stored forms of both ends."""

    def __init__(self, codec: Any) -> None:
        self.name = f"link {codec!r}"
        self.sender, self.receiver = ends(codec)
        for x in stream(2):
            self.receiver.receive(self.sender.send(x))
            self.sender.commit()
        self.stored = self.sender.dump(), self.receiver.dump()
        self.frame = self.sender.send(next(stream(1)))
        self.sender.rollback()

    def samples(self) -> Iterator[tuple[bytes, bool]]:
        for kind, frame in enumerate((self.frame, self.frame, *self.stored, self.sender.snapshot())):
            yield bytes([kind]) + payload_of(frame), True
            yield bytes([kind]) + frame, False

    def read(self, data: bytes, stamped: bool) -> None:
        kind, body = data[0] % 5 if data else 0, data[1:]
        model = (self.frame, self.frame, *self.stored, self.stored[1])[kind]
        frame = restamp(model, body) if stamped else body
        readers = (
            self.receiver.receive,
            self.receiver.receive_partial,
            self.sender.load,
            self.receiver.load,
            self.receiver.adopt,
        )
        try:
            readers[kind](frame)
        finally:
            self.sender.load(self.stored[0])
            self.receiver.load(self.stored[1])


class Bundles(Place):
    """A subscriber that holds version 2 of a model."""

    def __init__(self, name: str, codec: Any) -> None:
        self.name = f"subscriber {name}"
        self.codec, self.spec = codec, Spec.of(MODEL)
        self.broadcast = Broadcast(codec, self.spec, Key(3))
        self.bundles = []
        for version in range(4):
            self.broadcast.publish({name: x + version for name, x in MODEL.items()})
            self.bundles.append(self.broadcast.bundle(version or None))

    def subscriber(self) -> Any:
        return Subscriber(self.codec, self.spec)

    def samples(self) -> Iterator[tuple[bytes, bool]]:
        yield self.broadcast.bundle(None), False
        yield self.broadcast.bundle(self.broadcast.version), False
        for bundle in self.bundles:
            yield bundle, False
            for frame in unpack(bundle):
                yield payload_of(frame), True

    def read(self, data: bytes, stamped: bool) -> None:
        subscriber = self.subscriber()
        subscriber.receive(self.bundles[0])
        if stamped:
            data = pack([restamp(unpack(self.bundles[1])[-1], data)])
        subscriber.receive(data)


class Epochs(Bundles):
    """A subscriber of a run in subspaces, with epochs of two versions."""

    numel = 8

    def epoch_of(self, version: int) -> int:
        return (version - 1) // 2

    def expand(self, size: int, epoch: int, s: torch.Tensor) -> torch.Tensor:
        return Basis(size, 8, Key(epoch)).expand(s)

    def __init__(self) -> None:
        self.name = "subscriber in subspaces"
        self.broadcast = EpochBroadcast(self, Spec((41,)), Key(3))
        self.broadcast.publish({"theta_e": torch.zeros(41)})
        self.bundles = [self.broadcast.bundle(None)]
        for version in (1, 2, 3):
            self.broadcast.publish({"s": torch.ones(8) * version})
            self.bundles.append(self.broadcast.bundle(version))

    def subscriber(self) -> Any:
        return EpochSubscriber(self, Spec((41,)))


class Parsed(Place):
    """A frame on its own, and client state."""

    name = "frame"

    def __init__(self) -> None:
        self.kept = dump_client_state(torch.ones(41), "layout")

    def samples(self) -> Iterator[tuple[bytes, bool]]:
        yield self.kept, False
        yield payload_of(self.kept), True

    def read(self, data: bytes, stamped: bool) -> None:
        load_client_state(restamp(self.kept, data) if stamped else data, 41, "layout")


class Files(Place):
    """Files of a run that somebody else may have written."""

    name = "files"

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fewbits-fuzz-"))
        self.path = self.folder / "outside"

    def samples(self) -> Iterator[tuple[bytes, bool]]:
        RunConfig().write(self.folder)
        yield b"\0" + next(self.folder.glob("*.json")).read_bytes(), False
        line = '{"round":1,"client":2,"direction":"up","frame_bytes":3,"payload_bytes":4,"stages":{}}\n'
        yield b"\1" + line.encode(), False

    def read(self, data: bytes, stamped: bool) -> None:
        kind, body = data[0] % 2 if data else 0, data[1:]
        if kind == 0:
            next(self.folder.glob("*.json")).write_bytes(body)
            RunConfig.read(self.folder)
        else:
            self.path.write_bytes(body)
            list(ledger.read(self.path))


class Envelopes(Place):
    """What a Flower server reads of a reply before the frame: JSON, metrics, the arrays of a plain client."""

    name = "envelope"

    def samples(self) -> Iterator[tuple[bytes, bool]]:
        metrics = MetricRecord({"num-examples": 5, "loss": 0.5, "each": [1.0, 2.0]})
        content = RecordDict({"metrics": metrics, "more": ConfigRecord({"a": b"1", "b": ["x"], "c": True})})
        fields = {"records": described(content), "arrays": "arrays", "version": 3}
        for envelope in (Envelope("train", 2, fields, (bytes(20),)), Envelope("hello", 0, {"client": 3, "state": "x"})):
            yield b"\0" + pack(unpack(value(envelope.seal()))[:-1]), False  # the checksum is put back when it is read
        layout = Layout.of(
            ArrayRecord({name: Array(x.numpy()) for name, x in MODEL.items()} | {"n": Array(np.array(3))})
        )
        yield b"\1" + layout.dump(), False
        yield b"\1" + carried.part({"n": np.array(3), "m": np.arange(7)}, "sample"), False
        yield b"\2" + Array(MODEL["weight"].numpy()).data, False

    def read(self, data: bytes, stamped: bool) -> None:
        kind, body = data[0] % 3 if data else 0, data[1:]
        if kind == 0:
            parts = unpack(body)
            found = opened(pack([*parts, checksum(parts)]), 1000)
            restored(found.fields.get("records"))
            found.number("version"), found.text("arrays"), found.part()
        elif kind == 1:
            with suppress(FewbitsError):
                Layout.load(body, 1000)
            carried.arrays(body)
        else:
            layout = Layout((Entry("weight", (5, 7), "float32"),))
            layout.tensors(ArrayRecord({"weight": Array("float32", (5, 7), "numpy.ndarray", body)}), "reply")


DELTA8 = flat(Delta(chain(Quantize(bits=8), Rans())))
PLACES: list[Place] = [
    Parsed(),
    Files(),
    Bundles("dense", flat(chain(Raw()))),
    Bundles("delta8", DELTA8),
    Epochs(),
    Envelopes(),
    *(Link(codec) for codec in CODECS),
]
