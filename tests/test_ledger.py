"""Ledger: every byte that travelled, once."""

import json

import pytest

from every_codec import ends, payload_of, stream
from fewbits.codecs import LookBack, Quantize, TopK, chain, each
from fewbits.coders import Rans
from fewbits.errors import LocalError
from fewbits.links import Entry, Ledger
from fewbits.links.ledger import by_stage, read, stages


def entries(count: int = 4) -> list[Entry]:
    return [Entry(t, t % 3, ("up", "down")[t % 2], 100 + t, 84 + t, {"Rans": 8 * t}) for t in range(count)]


def test_totals_are_the_sums_of_the_entries():
    ledger = Ledger()
    for entry in entries():
        ledger.add(entry)
    assert ledger.frame_bytes == {"up": 100 + 102, "down": 101 + 103}
    assert ledger.payload_bytes == {"up": 84 + 86, "down": 85 + 87}
    assert ledger.messages == {"up": 2, "down": 2}
    assert ledger.flush() == 0


def test_a_file_holds_every_entry_and_is_continued(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    for entry in entries(3):
        ledger.add(entry)
    assert not path.exists() or path.stat().st_size == 0  # until it is flushed
    assert ledger.flush() == path.stat().st_size
    assert ledger.flush() == path.stat().st_size
    again = Ledger(path)
    assert again.frame_bytes == ledger.frame_bytes
    again.add(entries(4)[3])
    again.flush()
    assert list(read(path)) == entries(4)


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"round": 1}', '{"bytes": 3}', "7"])
def test_a_line_that_is_no_entry_is_named(tmp_path, line):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.add(entries(1)[0])
    ledger.flush()
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(LocalError, match="line 2: not a ledger entry"):
        Ledger(path)


def test_a_direction_is_up_or_down(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"round":0,"client":0,"direction":"sideways","frame_bytes":1,"payload_bytes":0}\n')
    with pytest.raises(LocalError, match="direction must be up or down"):
        Ledger(path)


@pytest.mark.parametrize(
    "codec",
    [chain(TopK(0.2), Quantize(4), Rans()), each(LookBack(chain(Quantize(4), Rans()), 0.9)), TopK(0.3)],
    ids=repr,
)
def test_stages_account_for_every_payload_bit_but_the_last_fill(codec):
    sender, _ = ends(codec)
    for x in stream(5):
        payload = payload_of(sender.send(x))
        found = stages(sender.sections)
        assert 8 * len(payload) - 8 < sum(found.values()) <= 8 * len(payload)
        assert "flat" not in found
        sender.commit()


def test_stages_sum_by_direction():
    assert by_stage(entries(6), "up") == {"Rans": 8 * (0 + 2 + 4)}
    assert by_stage(entries(6), "down") == {"Rans": 8 * (1 + 3 + 5)}


@pytest.mark.parametrize("name", ["round", "client", "frame_bytes", "payload_bytes"])
def test_no_number_of_an_entry_is_negative(tmp_path, name):
    path = tmp_path / "ledger.jsonl"
    line = {"round": 1, "client": 0, "direction": "up", "frame_bytes": 20, "payload_bytes": 4} | {name: -1}
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(LocalError, match=r"whole numbers, 0 or more; got .*-1"):
        Ledger(path)
