"""A budget of bytes ends a run close to it and never above, whatever the method, the processes and the stops."""

import json

import pytest
import torch
from typer.testing import CliRunner

import fewbits as fb
from fewbits import LocalError
from fewbits.cli.app import app
from fewbits.engines.common.schedule import NO_CAP
from fewbits.sizes import read_budget, read_size, short_size

BASE = ["--clients", "6", "--batch-size", "200", "--processes", "1"]


def clients(count=8):
    torch.manual_seed(0)
    return [(x := torch.randn(20, 20), x[:, :4].argmax(1)) for _ in range(count)]


def model():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(20, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))


def play(method, budget, **options):
    data = clients()
    return fb.federate(model(), data, method, budget=budget, test=data[0], **options)


def spent(result):
    return sum(result.ledger.frame_bytes.values())


def weights(result):
    return torch.cat([p.detach().flatten() for p in result.model.parameters()])


def call(*words, code=0):
    found = CliRunner().invoke(app, [str(word) for word in words])
    assert found.exit_code == code, found.output
    return found.output


# Sizes


@pytest.mark.parametrize(
    ("text", "count"),
    [("1B", 1), ("20kB", 20_000), ("2MB", 2_000_000), ("0.5 GB", 500_000_000), (" 2.5MB ", 2_500_000), (7, 7)],
)
def test_a_size_is_decimal(text, count):
    assert read_size("budget", text) == count
    assert read_size("budget", short_size(count).replace(",", "")) == count


def test_a_size_for_each_client_is_a_mean():
    assert read_budget("20kB/client", 50) == read_budget("1MB", 3) == 1_000_000


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "2",
        "2mb",
        "2 MiB",
        "2KB",
        "-1MB",
        "1e6B",
        "MB",
        "2MB/clients",
        "0B",
        "0.5B",
        "1.0001kB/Client",
        "9" * 20 + "GB",
    ],
)
def test_other_units_are_refused_in_a_sentence(wrong):
    with pytest.raises(LocalError, match=r"^budget must be") as error:
        read_budget(wrong, 5)
    assert repr(wrong) in str(error.value)


@pytest.mark.parametrize(("wrong", "meant"), [("2mb", "2MB"), ("3 KiB", "3kB"), ("1gb", "1GB"), ("5M", "5MB")])
def test_a_near_unit_is_named(wrong, meant):
    with pytest.raises(LocalError, match=f"did you mean '{meant}'"):
        read_size("budget", wrong)


@pytest.mark.parametrize("wrong", [0, -5, 1.5, True, None, 10**30])
def test_a_number_of_bytes_is_whole_and_above_zero(wrong):
    with pytest.raises(LocalError, match="budget must be a whole number"):
        read_budget(wrong, 5)


# Runs


@pytest.mark.parametrize("per_round", [None, 3])
@pytest.mark.parametrize("method", ["dense", "topk", "topk@down=own4", "lbgm", "lbgm+topk", "signsgd", "predict"])
def test_a_run_ends_close_to_its_budget_and_never_above(method, per_round):
    result = play(method, "60kB", per_round=per_round)
    last = result.reports[-1]
    assert spent(result) <= 60_000
    turn = max(entry for entry in turns(result))
    assert 60_000 - spent(result) <= max(600, turn)
    assert last.accuracy is not None
    assert result.notes[0].startswith(
        f"the budget ended the run after {last.round} rounds: {short_size(spent(result))} of"
    )


def turns(result):
    """The mean bytes of a client's turn in each round."""
    before = 0
    for report in result.reports:
        now = report.up_frame_bytes + report.down_frame_bytes
        yield (now - before) / (report.clients + report.skipped + report.rejected)
        before = now


def test_the_last_round_takes_as_many_of_its_clients_as_fit():
    result = play("dense", 8 * 3282 * 2 * 2 + 3 * 3300 * 2)
    assert [report.clients for report in result.reports] == [8, 8, 3]
    assert sum(result.ledger.messages.values()) == 2 * (8 + 8 + 3)


def test_a_frame_that_would_pass_the_budget_is_not_sent(tmp_path):
    """LBGM's rounds are cheap as long as it recycles: the dearest of the last ones does not foretell a full frame."""
    reasons = []
    for budget in (100_000, 109_000, 145_000, 154_000, 163_000):
        result = play("lbgm@threshold=0.4,down=delta4", budget, per_round=4, out=tmp_path / str(budget))
        assert spent(result) <= budget
        assert all(report.too_dear is None for report in result.reports[:-1])
        last = result.reports[-1]
        reasons += [
            note for note in last.notes if "did not send its frame: " in note and "are left of the budget" in note
        ]
        assert last.rejected == 0 and last.unsent == sum("did not send" in note for note in last.notes)
        assert not any("rejected" in note for note in result.notes)  # no client is at fault
        again = play("lbgm@threshold=0.4,down=delta4", budget, per_round=4, out=tmp_path / str(budget))
        assert len(again.reports) == last.round and spent(again) == spent(result)  # it stays at its end
    assert reasons


def test_rounds_may_cap_a_run_with_a_budget():
    result = play("topk", "1MB", rounds=2)
    assert len(result.reports) == 2
    assert not any("budget" in note for note in result.notes)


@pytest.mark.parametrize("method", ["topk", "intrinsic+deadzone@dim=32", "lbgm"])
def test_processes_do_not_change_a_byte(method):
    one, two = (play(method, "40kB", per_round=5, processes=n) for n in (1, 2))
    assert spent(one) == spent(two)
    assert torch.equal(weights(one), weights(two))


def test_a_stopped_run_ends_with_the_same_bytes(tmp_path):
    task = fb.simulation.Task.of(model(), clients(), clients()[0], None, None, None)
    schedule = fb.simulation.Schedule(NO_CAP, 5, 3, 4, 1, budget=40_000)

    def run():
        task.model.load_state_dict(model().state_dict())
        return fb.simulation.Federation(task, fb.methods.topk(), schedule, fb.Key(0), tmp_path)

    rounds = []
    stopped = run()
    stopped.run(watch=lambda report: rounds.append(report.round), stop=lambda: len(rounds) == 3)
    assert not stopped.finished
    again = run()
    continued = again.run()
    assert again.finished
    whole = play("topk", 40_000, per_round=5, evaluate_every=3)
    assert [(r.up_frame_bytes, r.accuracy) for r in continued.reports] == [
        (r.up_frame_bytes, r.accuracy) for r in whole.reports
    ]
    assert torch.equal(weights(continued), weights(whole))
    finished = run()
    assert len(finished.run().reports) == len(whole.reports)  # nothing is left


def test_a_budget_can_be_raised_and_not_lowered(tmp_path):
    first = play("topk", "40kB", out=tmp_path)
    second = play("topk", "60kB", out=tmp_path)
    assert spent(first) <= 40_000 < spent(second) <= 60_000
    assert [vars(r) for r in second.reports[: len(first.reports)]] == [vars(r) for r in first.reports]
    with pytest.raises(LocalError, match=r"can be raised, not lowered: the run has spent .* kB; got 30 kB"):
        play("topk", "30kB", out=tmp_path)


@pytest.mark.parametrize("method", ["dense", "topk", "masked+dense", "dp+dense"])
def test_a_first_round_above_the_budget_is_refused_with_both_values(method, tmp_path):
    with pytest.raises(LocalError, match=r"one round of .* costs .* by its forecast, more than the budget of 1.5 kB"):
        play(method, "1.5kB", out=tmp_path)


@pytest.mark.parametrize(
    ("method", "least"), [("masked+dense", 6), ("dp+dense", 1), ("dp+masked+dense", 6), ("dp+dense@share=central", 8)]
)
def test_a_round_has_as_many_clients_as_its_protection_needs(method, least):
    """Masks hide a client among as many as must arrive; central noise is that of all who were drawn."""
    for budget in (150_000, 175_000):
        result = play(method, budget)
        asked = [report.asked for report in result.reports]
        assert spent(result) <= budget and set(asked[:-1]) <= {8} and least <= asked[-1] <= 8
        left = budget - spent(result)
        one = max(turns(result))
        assert left < least * 1.5 * one  # nothing more would have fitted
        if 100 * left > budget:
            needs = "a client's turn" if least == 1 else f"a round needs at least {least} of its clients, which"
            assert f"; {needs} may cost " in result.notes[0]
            assert f"and {short_size(left)} are left" in result.notes[0]


def test_what_is_left_is_said_with_what_it_could_not_buy():
    assert play("topk", 60_000).notes[0].endswith("%")  # nearly all was spent
    result = play("lbgm", 120_000)
    assert result.notes[0].endswith("97.4%; a client's turn may cost 6.468 kB, and 3.18 kB are left")


def test_a_schedule_refuses_what_is_no_budget_and_gossip_refuses_all():
    with pytest.raises(LocalError, match="budget must be a whole number"):
        fb.simulation.Schedule(1, budget=0)
    task = fb.simulation.Task.of(model(), clients(), None, None, None, None, "node")
    schedule = fb.simulation.Schedule(1, processes=1, budget=10**6)
    with pytest.raises(LocalError, match=r"a run without a server takes no budget.*1,000,000 bytes"):
        fb.simulation.GossipRun(task, fb.learn.DSGD(), fb.topology.ring(8), schedule, fb.Key(0))


# The command line


def test_train_by_a_budget_and_raise_it(tmp_path):
    said = call("train", *BASE, "--method", "topk", "--budget", "4kB/client", "--out", tmp_path)
    assert "the budget ended the run after" in said and "of 24 kB spent" in said
    config, summary = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("config", "summary"))
    assert (config["rounds"], config["budget"]) == (None, "4kB/client")
    assert 23_000 < summary["up_frame_bytes"] + summary["down_frame_bytes"] <= 24_000
    assert "in each round, up to 4kB/client" in (tmp_path / "report.html").read_text()
    said = call("train", "--resume", tmp_path, "--budget", "3kB/client", code=2)
    assert "budget can be raised, not lowered: the run has 4kB/client; got 3kB/client" in " ".join(said.split())
    assert "of 30 kB spent" in call("train", "--resume", tmp_path, "--budget", "5kB/client")


def test_commands_refuse_what_does_not_go_with_a_budget(tmp_path):
    said = call("gossip", "--budget", "2MB", "--out", tmp_path, code=2)
    assert "a run without a server takes no budget" in " ".join(said.split())
    said = call("train", *BASE, "--budget", "2mb", "--out", tmp_path, code=2)
    assert "got '2mb'; did you mean '2MB'?" in " ".join(said.split())
    said = call("compare", *BASE, "--methods", "fedprox,dense", "--budget", "20kB", "--out", tmp_path / "c", code=2)
    assert "one round of dense costs" in " ".join(said.split()) and not (tmp_path / "c").exists()


# Accuracy at equal bytes


def test_compare_shows_accuracy_at_equal_bytes(tmp_path):
    methods = ["dense", "topk"]
    found = fb.compare(model(), clients(), methods, rounds=3, test=clients()[0], at=["60kB", 10**9], out=tmp_path)
    dense, topk = found.rows
    assert [count for count, _ in dense.at] == [60_000, 10**9]
    curve = found.records[0].curve
    assert dense.at[0][1] == [accuracy for _, sent, accuracy in curve if sent <= 60_000][-1]
    assert topk.at[0][1] is None and topk.at[1][1] is None  # it spent less
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary[0]["accuracy_at"] == {"60000": dense.at[0][1], "1000000000": None}
    table = str(found)
    assert "at 1 GB: ended before, or had no evaluated round within: dense, topk" in " ".join(table.split())
    assert max(map(len, table.splitlines())) <= 80
    assert "at 60 kB" in (tmp_path / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")


def test_without_at_it_is_what_all_methods_spent():
    found = fb.compare(model(), clients(), ["dense", "topk"], rounds=3, test=clients()[0])
    dense, topk = found.rows
    assert found.at == (int(topk.up + topk.down),)
    assert topk.at[0][1] == topk.accuracy
    assert dense.at[0][1] != dense.accuracy
    assert fb.compare(model(), clients(), ["topk"], rounds=2, test=clients()[0]).at == ()


def test_a_comparison_by_a_budget_ends_all_methods_alike():
    found = fb.compare(model(), clients(), ["dense", "topk"], budget="60kB", test=clients()[0], at=["60kB"])
    assert all(row.up + row.down <= 60_000 and row.at[0][1] == row.accuracy for row in found.rows)


@pytest.mark.parametrize("wrong", ["1MB", 5, ["1"], [0]])
def test_at_is_a_list_of_sizes(wrong):
    with pytest.raises(LocalError, match="at must be"):
        fb.compare(model(), clients(), ["dense"], at=wrong)


def test_a_table_of_many_sizes_is_no_wider_than_80_columns(tmp_path):
    words = ["--methods", "dense,lbgm+topk", "--at", "1kB,20kB,300kB,4MB,5MB", "--rounds", 2, "--target-accuracy", 0.1]
    said = call("compare", *BASE, *words, "--seeds", "0,1", "--out", tmp_path)
    assert (
        max(len(line) for line in said.splitlines() if not line.startswith(("report", "note", "dense", "lbgm"))) <= 80
    )
