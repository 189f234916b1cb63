"""What a run's clients will keep on disk is told before it begins, and nothing of the run is touched by telling it."""

import pytest
import torch

from digits_task import KEY, mlp, task
from fewbits.engines.simulation import Federation, Footprint, Schedule, footprint
from fewbits.methods import build

CLIENTS = 120


@pytest.mark.parametrize(
    ("name", "rounds", "per_round"),
    [
        ("lbgm", 2, None),
        ("lbgm", 1, 50),
        ("topk", 12, 20),
        ("pfedpara", 9, 40),
        pytest.param("topk", 26, 60, marks=pytest.mark.slow),
    ],
)
def test_the_files_weigh_what_was_foretold_within_a_tenth(name, rounds, per_round, tmp_path):
    found, schedule = task(CLIENTS, lambda: mlp(256)), Schedule(rounds, per_round, processes=1, checkpoint_every=5)
    foretold = footprint(found, build(name), schedule, KEY)
    Federation(found, build(name), schedule, KEY, tmp_path).run()
    weight = sum(path.stat().st_size for path in (tmp_path / "states").iterdir())
    assert weight == pytest.approx(foretold.after_run, rel=0.1)


def test_a_method_without_states_weighs_only_what_marks_the_links():
    found = footprint(task(CLIENTS, lambda: mlp(256)), build("dense"), Schedule(2, processes=1), KEY)
    assert found.per_client < 2000 < 4 * (64 * 256 + 256 * 10)


def test_the_model_is_left_as_it_was():
    found = task(8)
    before = [p.detach().clone() for p in found.model.parameters()]
    footprint(found, build("lbgm"), Schedule(2, processes=1), KEY)
    assert all(torch.equal(a, b) for a, b in zip(before, found.model.parameters(), strict=True))


def test_clients_drawn_twice_are_counted_once():
    found = Footprint(10.0, 4, Schedule(3, per_round=2))
    assert found.seen == pytest.approx(4 * (1 - 0.5**3))
    assert found.at_most == 40.0
