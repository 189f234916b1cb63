"""A slice of the messages with one value changed; all of them: python tests/fuzz/values.py."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import FedAdam, FedAvg, Krum, QFedAvg

from fewbits import methods
from fewbits.engines.flower import Compressed, Federated, Quarantine
from fewbits.engines.flower.schema import refuse
from flower_numpy import DENSE, dense_grid, no_collection, record

__all__ = ["no_collection"]  # a fixture of this module, too
SPEC = importlib.util.spec_from_file_location("values", Path(__file__).parent / "fuzz" / "values.py")
assert SPEC is not None and SPEC.loader is not None
values = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(values)


def test_no_value_in_a_well_sealed_message_raises_or_moves_anything_unchecked(tmp_path):
    """In both directions: a strategy of Flower's, a lossless method, arrays of its own, and the server of fewbits."""
    assert values.attack(tmp_path, every=397) > 20


HUGE = [3e38, -3e38, 1e30, 1e20, float("nan"), float("inf")]
WRAPS = {
    "FedAvg": lambda: Compressed(FedAvg(), DENSE, quarantine=Quarantine(10**6)),
    "FedAdam, top-k": lambda: Compressed(FedAdam(), methods.topk(), quarantine=Quarantine(10**6)),
    "Krum": lambda: Compressed(Krum(num_malicious_nodes=1), DENSE, quarantine=Quarantine(10**6)),
    "q-FedAvg": lambda: Compressed(QFedAvg(0.1, train_loss_key="loss"), DENSE, quarantine=Quarantine(10**6)),
    "federated": lambda: Federated(methods.topk(), 3, evaluate=0.0, quarantine=Quarantine(10**6)),
}


@pytest.mark.parametrize("name", WRAPS)
def test_values_that_no_sum_survives_end_nobodys_run(tmp_path, name):
    strategy = WRAPS[name]()
    train = lambda x, client, round: (  # noqa: E731
        np.full_like(x, HUGE[round - 1]) if client == 1 else (x + np.float32(client)).astype(np.float32)
    )
    grid = dense_grid(tmp_path, 3, strategy.method, train=train)
    start = record(w=np.ones((2, 3), np.float32), b=np.float32(0))
    result = strategy.start(grid, start, num_rounds=len(HUGE), timeout=5)
    assert all(np.isfinite(x.numpy()).all() for x in result.arrays.values())
    refused = {note.partition(":")[0] for note in strategy.channel.notes if "client 1" in note}
    assert {"round 5", "round 6"} <= refused and (name == "federated" or len(refused) == len(HUGE))


class Doubling(FedAvg):
    """Sends arrays that are not the model's, and takes their mean."""

    def configure_train(self, server_round, arrays, config, grid):
        twice = ArrayRecord({name: Array(x.numpy() * np.float32(2)) for name, x in arrays.items()})
        return super().configure_train(server_round, twice, config, grid)


OTHER = [
    lambda x: x.astype(np.complex64),
    lambda x: x > 0,
    lambda x: x[:1],
    lambda x: x.reshape(-1),
    lambda x: np.full_like(x, 3e38),
    lambda x: x.astype(np.float64) * np.nan,
]


def test_arrays_in_answer_to_a_strategys_own_are_of_the_form_that_was_sent(tmp_path):
    strategy = Compressed(Doubling(fraction_evaluate=0.0), methods.topk(), quarantine=Quarantine(10**6))
    train = lambda x, client, round: OTHER[round - 1](x) if client == 1 else x  # noqa: E731
    start = record(w=np.ones((2, 3), np.float32))
    result = strategy.start(dense_grid(tmp_path, 3, strategy.method, train=train), start, len(OTHER), timeout=5)
    assert strategy.quarantine.offences == {1: len(OTHER)}
    np.testing.assert_array_equal(result.arrays["w"].numpy(), np.full((2, 3), 2.0 ** len(OTHER), np.float32))


def test_weights_have_the_bounds_that_the_server_gives(tmp_path):
    weigh = {0: 5, 1: 400, 2: 5, 3: 2_000, 4: 5}
    for bound, left_out in ((None, {3}), (300, {1, 3}), ({1: 300, 3: 3_000}, {1}), (1e6, set())):
        strategy = Compressed(FedAvg(fraction_evaluate=0.0), DENSE, max_weight=bound)
        grid = dense_grid(tmp_path, 5, metrics=lambda client, round: {"num-examples": weigh[client]})
        strategy.start(grid, record(w=np.ones(3, np.float32)), num_rounds=1, timeout=5)
        assert set(strategy.quarantine.offences) == left_out, bound


def test_a_sentence_about_a_value_is_short_whatever_the_value():
    for value in (10**5000, values.DEEP, "x" * 10**6, float("nan")):
        assert len(str(refuse("a field", "a number", value))) < 200
