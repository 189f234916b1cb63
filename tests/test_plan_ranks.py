"""`fewbits plan --bandwidth`: frames have the lengths that OuterStep sends, and seconds are arithmetic on them."""

import json
import math
import time
from dataclasses import replace
from itertools import count

import pytest
from torch import nn
from typer.testing import CliRunner

from fewbits.analysis.forecast.rank_exchange import EMPTY, PLAYED
from fewbits.analysis.forecast.ranks import ALL_REDUCE, RankForecast, RankLine, all_reduce, forecast_ranks
from fewbits.cli.app import app
from fewbits.distributed import Replicas
from fewbits.links import Receiver

SLOW = RankLine(8e6, 0.05)  # 1 MB a second


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(30, 40), nn.BatchNorm1d(40), nn.Linear(40, 5))


@pytest.mark.parametrize("method", ["dense", "fedpaq@bits=4", "signsgd", "noloco@bits=32"])
def test_a_frame_is_as_long_as_the_one_that_replicas_send(method):
    models = [build() for _ in range(4)]
    replicas = Replicas(models, method, every=1)
    for model in models:
        for p in model.parameters():
            p.data.add_(0.01)
    replicas.step()
    found = forecast_ranks(build, method, 4)
    assert found.frame_bytes == len(replicas.messages[0])
    assert found.sent_bytes == replicas.sent_bytes[0]
    assert found.codec_seconds > 0 and found.transport_seconds > 0
    assert found.messages == {"dense": 4, "noloco@bits=32": 3}.get(method, 2)


@pytest.mark.parametrize("method", ["dense", "fedpaq@bits=4"])
@pytest.mark.parametrize("ranks", [3, PLAYED, PLAYED + 1, 13])
def test_more_ranks_than_are_played_send_as_many_bytes_as_replicas(method, ranks):
    models = [build() for _ in range(ranks)]
    replicas = Replicas(models, method, every=1)
    for model in models:
        for p in model.parameters():
            p.data.add_(0.01)
    replicas.step()
    found = forecast_ranks(build, method, ranks)
    assert (found.frame_bytes, found.sent_bytes) == (len(replicas.messages[0]), replicas.sent_bytes[0])


@pytest.mark.parametrize(("method", "seconds"), [("dense", 2 + 2 / EMPTY), ("topk", 2 + 1), ("noloco", 1)])
def test_few_ranks_are_played_and_each_further_one_adds_its_frame(method, seconds, monkeypatch):
    played = []

    def counted(self, *given, **named) -> None:
        played.append(1)
        begin(self, *given, **named)

    begin = Receiver.__init__
    monkeypatch.setattr(Receiver, "__init__", counted)
    monkeypatch.setattr(time, "thread_time", count().__next__)  # each stretch takes a second
    assert forecast_ranks(build, method, PLAYED + 1).codec_seconds == seconds
    found = forecast_ranks(build, method, 10**9)
    assert 0 < len(played) < 1000
    assert found.codec_seconds == pytest.approx(1 if method == "noloco" else 2 + (10**9 - PLAYED) * (seconds - 2))
    assert found.sent_bytes == found.frame_bytes if method == "noloco" else found.sent_bytes > 1e10


def test_ranks_that_share_a_core_wait_for_each_others_work():
    one = RankForecast("topk", 0, 0, 0, codec_seconds=0.4, transport_seconds=0.1)
    seconds = [replace(one, ranks_per_core=n).exchange_seconds(SLOW) for n in (0.5, 1, 2, 2.5)]
    assert seconds == pytest.approx([0.5, 0.5, 1.0, 1.25])
    assert forecast_ranks(build, "signsgd", 4, ranks_per_core=2.5).ranks_per_core == 2.5


def test_seconds_are_computing_latency_bytes_and_codec():
    one = RankForecast("topk", 250_000, 1_000_000, 2, codec_seconds=0.4)
    assert one.exchange_seconds(SLOW) == pytest.approx(2 * 0.05 + 1.0 + 0.4)
    assert one.seconds(SLOW, 30, 0.1) == pytest.approx(3.0 + 1.5)
    assert one.share(SLOW, 30, 0.1) == pytest.approx(3.0 / 4.5)
    least = one.least_every(SLOW, 0.1)
    assert one.share(SLOW, least, 0.1) >= 0.9 > one.share(SLOW, least - 1, 0.1)


def test_an_all_reduce_follows_every_step():
    ring = all_reduce(1_000_000, 4)
    assert (ring.method, ring.sent_bytes, ring.messages) == (ALL_REDUCE, 6e6, 6)
    assert ring.share(SLOW, 30, 1.0) == pytest.approx(ring.share(SLOW, 1, 1.0)) == pytest.approx(1 / 7.3)


def run(*words: str):
    return CliRunner().invoke(app, ["plan", *words], env={"COLUMNS": "120", "NO_COLOR": "1"})


def test_the_command_prints_a_line_for_each_method_and_writes_all_figures(tmp_path):
    file = tmp_path / "plan.json"
    words = ["--params", "10000", "--bandwidth", "1Mbit", "--latency", "10ms", "--compute", "500ms", "--every", "1,20"]
    words += ["--ranks-per-core", "1.5"]
    result = run(*words, "--method", "dense,signsgd,intrinsic", "--ranks", "3", "--json", str(file))
    assert result.exit_code == 0, result.output
    assert "10,000 parameters; 3 ranks" in result.output and "H = 20" in result.output
    assert "not planned: intrinsic: OuterStep: method 'intrinsic' needs a server" in result.output
    found = json.loads(file.read_text())
    ring, dense, signs = found["methods"]
    assert (found["bits_per_second"], found["latency"], found["compute"]) == (1e6, 0.01, 0.5)
    assert dense["sent_bytes"] == 4 * 16 + 4 * (3333 + 3334) + 2 * 4 * 3333  # two slices, and a mean to two ranks
    assert dense["ranks_per_core"] == 1.5
    assert math.isclose(dense["seconds"]["20"], 10 + dense["exchange_seconds"])
    assert math.isclose(ring["seconds"]["20"], 20 * ring["seconds"]["1"])
    assert signs["share"]["20"] > dense["share"]["20"] > dense["share"]["1"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--latency", "5ms"], "--latency is for ranks of torch.distributed; give --bandwidth"),
        (["--ranks-per-core", "2"], "--ranks-per-core is for ranks of torch.distributed; give --bandwidth"),
        (["--bandwidth", "1Mbit", "--ranks-per-core", "0"], "ranks-per-core must be a finite number above 0; got 0"),
        (["--bandwidth", "1Mbit", "--clients", "3"], "--clients is for clients; give one"),
        (["--bandwidth", "1Mbit", "--uplink-mbps", "3"], "--uplink-mbps is for clients; give one"),
        (["--bandwidth", "100"], "one of the units bit, kbit, Mbit, Gbit, such as 100Mbit; got '100'"),
        (["--bandwidth", "1Mbit", "--latency", "5"], "one of the units us, ms, s, such as 50ms; got '5'"),
        (["--bandwidth", "1Mbit", "--compute", "5"], "one of the units us, ms, s, such as 1.2s; got '5'"),
        (["--bandwidth", "0Mbit"], "a bandwidth above 0"),
        (["--bandwidth", "1Mbit", "--compute", "0s"], "compute must be above 0"),
        (["--bandwidth", "1Mbit", "--every", "1,x"], "every must be whole numbers of steps"),
        (["--bandwidth", "1Mbit", "--every", "0"], "every must be a whole number, 1 or more; got 0"),
        (["--bandwidth", "1Mbit", "--ranks", "1"], "ranks must be a whole number in 2..1000000000; got 1"),
        (["--method", "a=topk,a=topk@fraction=0.5"], "plan: give one or more methods, each once; got a, a"),
        (["--bandwidth", "1Mbit", "--method", "topk,topk"], "give one or more methods, each once; got topk, topk"),
        (
            ["--bandwidth", "1Mbit", "--method", "topk@fraction=2"],
            "no method fits. topk@fraction=2: TopK: fraction must",
        ),
        (["--bandwidth", "1Mbit", "--method", "noloco@bits=99"], "no method fits. noloco@bits=99: Quantize: bits must"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_a_sentence(words, sentence):
    result = run("--params", "1000", *words)
    assert result.exit_code == 2
    assert sentence in " ".join(result.output.split())


def test_the_command_plans_for_a_random_partner(tmp_path):
    file = tmp_path / "plan.json"
    words = ["--params", "10000", "--bandwidth", "1Mbit", "--json", str(file)]
    result = run(*words, "--method", "noloco,fine=noloco@bits=8,fedpaq@bits=4", "--set", "noloco.pull=2")
    assert result.exit_code == 0, result.output
    _, pair, fine, mean = json.loads(file.read_text())["methods"]
    assert [pair["method"], fine["method"]] == ["noloco@pull=2", "fine"]
    assert pair["sent_bytes"] == pair["frame_bytes"] < fine["sent_bytes"]
    assert mean["sent_bytes"] == 3 * mean["frame_bytes"] > 2 * pair["sent_bytes"]


def test_a_random_partner_is_for_ranks_alone():
    result = run("--params", "1000", "--method", "noloco")
    assert result.exit_code == 2
    assert "method 'noloco' is for ranks of torch.distributed" in result.output
