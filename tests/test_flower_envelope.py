"""Envelopes and layouts: what is opened is what was sealed, and nobody's bytes do more than raise our error."""

import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fewbits.engines.flower import Quarantine, carried
from fewbits.engines.flower import envelope as wire
from fewbits.engines.flower.envelope import Envelope
from fewbits.engines.flower.layout import Entry, Layout
from fewbits.engines.flower.npy import numbers
from fewbits.errors import FewbitsError, LocalError, WireError
from fewbits.links.bundle import pack, unpack
from fewbits.rng import Key

LAYOUT = Layout.of(
    ArrayRecord(
        {
            "net.0.weight": Array(np.zeros((3, 4), np.float32)),
            "net.0.running_mean": Array(np.zeros(4, np.float64)),
            "net.0.spread_var": Array(np.zeros(4, np.float32)),
            "net.0.count": Array(np.array(7)),
            "free": Array(np.zeros(0, np.float16)),
        }
    )
)
RECORDS = RecordDict(
    {
        "arrays": ArrayRecord(),
        "metrics": MetricRecord({"a": 1, "b": 0.1, "c": [1, 2], "d": [0.5], "inf": float("inf")}),
        "config": ConfigRecord({"s": "x", "b": b"\x00\xff", "t": True, "bs": [b"", b"1"], "ss": ["", "y"], "f": [0.1]}),
    }
)


@pytest.mark.parametrize("size", [0, 10, wire.LARGE])
def test_what_is_opened_is_what_was_sealed(size):
    """As one record of one value: a ConfigRecord, and from 5 MB on an Array."""
    sealed = Envelope("train", 3, {"run": "r"}, (bytes(size), b"second")).seal()
    assert len(sealed) == 1 and len(sealed[wire.NAME]) == 1
    assert isinstance(sealed[wire.NAME], ArrayRecord if size >= wire.LARGE else ConfigRecord)
    found = wire.opened(wire.value(sealed))
    assert (found.kind, found.round, dict(found.fields), found.parts) == (
        "train",
        3,
        {"run": "r"},
        (bytes(size), b"second"),
    )


def test_records_come_back_with_their_types():
    fields = {"records": wire.described(RECORDS)}
    found = wire.restored(wire.opened(wire.value(Envelope("train", 1, fields).seal())).fields["records"])
    assert found == {name: RECORDS[name] for name in ("metrics", "config")}
    assert [type(x) for x in found["metrics"].values()] == [type(x) for x in RECORDS["metrics"].values()]


def test_a_layout_comes_back_and_makes_the_same_module():
    found = Layout.load(LAYOUT.dump())
    assert found == LAYOUT
    assert {entry.name: entry.kind for entry in found.entries} == {
        "net.0.weight": "coded",
        "net.0.running_mean": "carried",  # float64, which a frame would round
        "net.0.spread_var": "exact",
        "net.0.count": "carried",
        "free": "coded",
    }
    names = [(n, tuple(p.shape)) for n, p in LAYOUT.module().state_dict().items()]
    assert sorted(names) == [("free", (0,)), ("net.0.spread_var", (4,)), ("net.0.weight", (3, 4))]
    assert [n for n, _ in LAYOUT.module().named_buffers()] == ["net.0.spread_var"]


@pytest.mark.parametrize("kind", ["<f4", ">f8", "<f2", "|i1", "<u8"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (1, 2, 3)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_read_as_numpy_reads_them(kind, shape, order):
    x = np.asarray(np.arange(np.prod(shape)).reshape(shape).astype(kind), order=order)
    found = numbers(Array(x).data)
    assert found.dtype == x.dtype and found.shape == x.shape
    np.testing.assert_array_equal(found, x)


@pytest.mark.parametrize("names", [("a", "a.b"), ("",), ("a..b",), ("forward.x", "forward")])
def test_names_that_cannot_stand_beside_each_other_are_named(names):
    layout = Layout(tuple(Entry(name, (1,), "float32") for name in names))
    with pytest.raises(LocalError, match="cannot be an array's name"):
        layout.module()


def stamped(data: bytes) -> bytes:
    """The parts with the checksum that they should have behind them."""
    parts = unpack(data)
    return pack([*parts, wire.checksum(parts)])


def test_a_message_of_which_one_bit_is_another_is_refused_wherever_it_is():
    """What a reply weighs stands in the JSON, which no frame's checksum covers."""
    metrics = RecordDict({"metrics": MetricRecord({"num-examples": 250})})
    data = wire.value(Envelope("train", 1, {"records": wire.described(metrics)}, (bytes(20),)).seal())
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WireError):
            wire.opened(bytes(damaged))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\x01\x02{}",
        b"\x01\x09[1,2,3,4]",
        b'\x01\x07{"v":9}',
        stamped(pack([b'{"v":1,"kind":"a","round":0}'])),
        pack([b'{"v":2,"kind":"a","round":0}']),
        stamped(pack([b'{"v":2,"kind":1,"round":0}'])),
        stamped(pack([b'{"v":2,"kind":"a","round":[]}'])),
        b"\xff" * 40,
        b"\x01\x88\x27" + b"[" * 5000,
    ],
)
def test_what_is_no_envelope_is_refused(data):
    with pytest.raises(WireError):
        wire.opened(data)


def test_a_message_that_could_not_be_of_use_is_not_even_read():
    with pytest.raises(WireError, match="at most"):
        wire.opened(bytes(3 << 20), limit=1000)


@pytest.mark.parametrize("shape", ["[1099511627776]", "[-1]", "[1.5]", '["a"]', "7", "[true]", "[1e3]", "null"])
def test_a_layout_that_promises_too_much_is_refused_before_it_is_built(shape):
    with pytest.raises(WireError):
        Layout.load(f'{{"entries":[["a",{shape},"float32","coded"]]}}'.encode())


@pytest.mark.parametrize(
    "kind", ["O", "V8", "U4", "[]", "no", "i4,(2", "9999999999V", "(2,)f4", "f4,f4", "int32", "M8"]
)
def test_a_layout_of_odd_types_is_refused(kind):
    """NumPy's own reader evaluates some of these as Python: SyntaxError and OverflowError came of them."""
    with pytest.raises(WireError):
        Layout.load(f'{{"entries":[["a",[1],"{kind}","coded"]]}}'.encode())


def test_arrays_that_travel_as_they_are_come_back_of_every_type():
    kinds = ["int8", "uint16", "int64", "bool", "float16", "float32", "float64", "complex64", ">i4"]
    arrays = {kind: np.zeros((2, i), kind) for i, kind in enumerate(kinds)} | {"none": np.array(3), "": np.array(True)}
    found = carried.arrays(carried.part(arrays, "test"))
    assert {n: (x.dtype, x.shape, x.tolist()) for n, x in found.items()} == {
        n: (x.dtype, x.shape, x.tolist()) for n, x in arrays.items()
    }
    with pytest.raises(LocalError, match="test: array 'x' of '' cannot travel"):
        carried.part({"x": np.array(["text"])}, "test")


def test_a_slice_of_fuzz():
    """Bytes of four real messages, changed, cut and repeated: our own errors or none, in memory of their own order."""
    key = Key(3)
    seeds = [
        wire.value(Envelope("train", 1, {"arrays": "a", "records": wire.described(RECORDS)}, (bytes(99),)).seal()),
        wire.value(Envelope("hello", 0, {"client": 3, "state": "x"}).seal()),
        LAYOUT.dump(),
        carried.part({"a": np.arange(5), "b": np.ones((2, 2))}, "test"),
    ]
    tracemalloc.start()
    for attempt in range(1000):
        own = key.fold(attempt)
        data = bytearray(seeds[attempt % 4])
        for place, byte in zip(own.fold("at").below(len(data), 4), own.fold("to").below(256, 4), strict=True):
            data[int(place)] = int(byte)
        data = bytes(data[: int(own.fold("cut").below(2 * len(data), 1)[0])])
        for reader in (_read, Layout.load, carried.load):
            with suppress(FewbitsError):
                reader(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def _read(data: bytes) -> None:
    with suppress(FewbitsError):
        data = stamped(data[:-5])  # as somebody would who means harm: behind a checksum that is right
    found = wire.opened(data, 1000)
    wire.restored(found.fields.get("records"))
    for read in (found.number, found.text):
        read("client")


def test_quarantine_counts_in_a_row_and_lets_go():
    quarantine = Quarantine(strikes=2, rest=3)
    assert quarantine.offend(7, 1) == "offence 1 of 2"
    quarantine.behave(7)
    assert quarantine.offend(7, 2) == "offence 1 of 2"
    assert quarantine.offend(7, 3) == "not asked again until after round 6"
    assert [t for t in range(1, 9) if quarantine.resting(7, t)] == [1, 2, 3, 4, 5, 6]
    again = Quarantine(2, 3)
    again.load(quarantine.dump())
    assert again == quarantine
