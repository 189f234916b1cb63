"""No run spends more than its budget: whoever fails, and however long the frames are."""

import random
from types import SimpleNamespace

import pytest
import torch

import fewbits as fb
from fewbits import LocalError
from fewbits.analysis.forecast.longest import longest_frame
from fewbits.codecs import as_lift
from fewbits.engines.simulation.budget import Budget
from fewbits.engines.simulation.round_report import totals
from fewbits.federated.server import Server
from fewbits.links import Ledger
from fewbits.report.record import Record
from fewbits.report.table import legend, rows

PROTECTED = ["dp+dense", "dp+topk", "dp+lbgm@noise=0.01,threshold=0.9", "dp+predict", "dp+dense@share=central"]
MASKED = ["masked+dense", "dp+masked+dense", "dp+masked+dense@share=central"]


def clients(count=6):
    torch.manual_seed(0)
    return [(x := torch.randn(20, 30), x[:, :4].argmax(1)) for _ in range(count)]


def model():
    torch.manual_seed(3)
    return torch.nn.Linear(30, 4)


def local(model, data, context):
    x, y = data
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


def off(begin, end):
    """Training that fails on all clients between two rounds."""

    def train(model, data, context):
        if begin < context.round < end:
            raise OSError("no power")
        local(model, data, context)

    return train


def often_off(part):
    """Training that fails on some of the clients in each round."""

    def train(model, data, context):
        if random.Random(f"{context.round} {float(data[0][0, 0])}").random() < part:
            raise OSError("no power")
        local(model, data, context)

    return train


def play(method, budget, train=local, **options):
    return fb.federate(model(), clients(), method, budget=budget, local=train, **options)


@pytest.mark.parametrize("method", [*PROTECTED, *MASKED, "dp+dense@down=own2", "topk", "lbgm@threshold=0.9"])
def test_rounds_whose_clients_failed_do_not_count_as_cheap(method):
    reports = play(method, None, off(2, 9), rounds=9).reports
    before, last = reports[7].bytes, reports[8].bytes - reports[7].bytes
    for part in (0.55, 0.75, 0.95):  # of a round is left when clients are back
        budget = before + round(part * last)
        assert play(method, budget, off(2, 9)).bytes <= budget


@pytest.mark.parametrize(
    ("method", "part", "budgets"),
    [
        ("dp+masked+dense", 0.25, [(0, 12_400), (1, 12_400)]),
        ("dp+masked+dense", 0.6, [(0, 11_000), (1, 12_400)]),
        ("dp+dense", 0.6, [(0, 19_400), (1, 23_600), (2, 18_000)]),
    ],
)
def test_clients_that_fail_at_random_end_no_run_above_its_budget(method, part, budgets):
    for seed, budget in budgets:
        assert play(method, budget, often_off(part), per_round=3, seed=seed).bytes <= budget


def test_a_frame_in_full_is_reserved_where_frames_are_not_of_one_length():
    """LBGM sends a scalar or a frame in full; one is known beforehand, and nothing is refused."""
    method = "dp+lbgm@noise=0.01,threshold=0.8,down=own1"
    for budget in range(6_000, 8_000, 300):
        result = play(method, budget, per_round=1)
        full = longest(method)
        assert result.bytes <= budget
        assert not any(report.unsent for report in result.reports)
        assert budget - result.bytes < full + 200  # a full frame and a message down had no room
        assert "; a client's turn may cost " in result.notes[0] and " are left" in result.notes[0]


def exchange(method):
    return Server(model(), fb.methods.named(method).for_round_size(6), fb.Key(1)).exchange


@pytest.mark.parametrize("method", ["topk", "dp+topk", "dp+dense", "masked+dense", "dp+dense@share=central"])
def test_a_run_in_which_no_frame_ever_came_ends(method):
    result = play(method, 24_000, off(0, 10**6), per_round=3)
    assert result.bytes <= 24_000
    assert len(result.reports) > 1 and result.reports[-1].asked + (method == "dp+dense@share=central") > 0
    assert result.notes[0].startswith("the budget ended the run after")


def test_what_a_turn_may_cost_is_known_before_the_first_frame_came():
    """Else clients would train, and their frames would have no room."""
    for budget, asked in ((3_200, 1), (3_745, 2), (4_645, 3)):
        first, second = play("dp+dense", budget, off(0, 2), per_round=3).reports
        assert (first.clients, first.unsent) == (0, 0)
        assert (second.asked, second.clients, second.unsent) == (asked, asked, 0)


def longest(method):
    return longest_frame(exchange(method), fb.Key(2))


@pytest.mark.parametrize("method", ["dp+dense", "dp+lbgm@noise=0.01,threshold=0.9", "dp+signsgd", "masked+dense"])
def test_the_longest_frame_is_the_longest_of_a_run(method):
    lengths = []
    task = fb.simulation.Task.of(model(), clients())
    run = fb.simulation.Federation(task, fb.methods.named(method), fb.simulation.Schedule(6, processes=1), fb.Key(0))
    run.tap = lambda round, client, way, message: lengths.append(len(message)) if way == "up" else None
    run.run()
    assert max(lengths) == longest(method)


def test_frames_that_values_decide_have_no_longest_one():
    assert longest("dp+topk") is None


@pytest.mark.parametrize(("method", "stays"), [("dp+topk", True), ("topk", False)])
def test_after_a_message_without_room_under_local_noise_nobody_else_is_asked(method, stays):
    """So nobody pays with privacy for what cannot travel."""
    budget = Budget(1_000, exchange(method), Ledger(), fb.Key(1))
    assert not budget.refuses(1_000)
    assert budget.refuses(1_001)
    assert budget.refuses(1) is stays
    assert budget.close(2, 0) == 1_001


def test_a_frame_under_local_noise_that_has_no_room_does_not_travel():
    result = play("dp+lbgm+topk@noise=0.01,threshold=0.97,down=own1", 7_100)
    assert result.bytes <= 7_100
    assert (result.reports[-1].asked, result.reports[-1].unsent) == (1, 1)


def test_a_run_under_noise_that_goes_on_ends_with_the_same_bytes_and_privacy(tmp_path):
    for method, budget, train in (
        ("dp+lbgm+topk@noise=0.01,threshold=0.97,down=own1", 7_100, local),
        ("dp+masked+dense", 70_000, often_off(0.25)),
    ):
        whole = play(method, budget, train)
        for rounds in (2, 4, None):
            continued = play(method, budget, train, rounds=rounds, out=tmp_path / method)
        assert [(r.bytes, r.asked, r.epsilon) for r in continued.reports] == [
            (r.bytes, r.asked, r.epsilon) for r in whole.reports
        ]


def test_one_is_not_written_as_several():
    def report(skipped, rejected):
        return SimpleNamespace(skipped=skipped, rejected=rejected, clients=1)

    assert totals([report(0, 1)]) == ["a frame was rejected in 1 round"]
    assert totals([report(1, 0), report(0, 2)]) == [
        "a client's turn was skipped and 2 frames were rejected in 2 rounds"
    ]


def test_central_noise_takes_no_budget_with_frames_of_unknown_length():
    method = fb.methods.dp(share="central")
    method = fb.Method(**{**vars(method), "up": as_lift(fb.chain(fb.Raw(), fb.coders.Zstd()), "test")})
    with pytest.raises(LocalError, match=r"budget: dp must reserve the longest frame .* have no longest one"):
        play(method, 30_000)


def test_a_frame_that_the_budget_had_no_room_for_is_no_fault(tmp_path):
    """The table has no mark, and the sentence at the end says that the budget ended the run."""
    result = play("lbgm@threshold=0.4,down=delta4", 22_600, per_round=4, out=tmp_path)
    assert result.reports[-1].unsent and result.notes[0].startswith("the budget ended the run after")
    assert totals(result.reports) == []
    record = Record.read(tmp_path, "lbgm", 0)
    assert record.left_out[:2] == (0, 0) and record.summary()["rejected"] == 0
    assert legend(rows([record])) == []
