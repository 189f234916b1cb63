"""LocalTraining: any optimizer, schedule, mixed precision, accumulated batches, and state that stays with a client."""

import copy

import pytest
import torch
from torch import nn

import fewbits as fb
from fewbits.learn.examples import TensorExamples
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.optimizer_state import dump_optimizer, load_optimizer

torch.manual_seed(0)
X, Y = torch.randn(48, 6), torch.arange(48) % 3
CLIENTS = [(X[i::4], Y[i::4]) for i in range(4)]
DICTS = [{"input": x, "labels": y} for x, y in CLIENTS]
TEST = (X, Y)


def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def run(local, clients=CLIENTS, method="dense", rounds=3, **options):
    return fb.federate(net(), clients, method, rounds, test=TEST, local=local, **options)


def weights(result):
    return torch.cat([p.detach().flatten() for p in result.model.parameters()])


def by_hand(make, rounds, steps_of, keep=False, schedule=None):
    """FedAvg with one full batch per step, written out."""
    server, states = net(), [None] * len(CLIENTS)
    for number in range(rounds):
        ends = []
        for c, (x, y) in enumerate(CLIENTS):
            model = copy.deepcopy(server)
            optimizer = make(model.parameters())
            if schedule:
                scheduler = schedule(optimizer)
                optimizer.step()  # without gradients; torch warns where a scheduler's step is the first
                for _ in range(number):
                    scheduler.step()
            if states[c] is not None:
                optimizer.load_state_dict(optimizer.state_dict() | {"state": states[c]["state"]})
            for _ in range(steps_of):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
            if keep:
                states[c] = copy.deepcopy(optimizer.state_dict())
            ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        nn.utils.vector_to_parameters(torch.stack(ends).mean(0), server.parameters())
    return nn.utils.parameters_to_vector(server.parameters()).detach()


def test_adam_is_torch_adam():
    make = lambda p: torch.optim.Adam(p, 1e-2)  # noqa: E731
    found = weights(run(fb.LocalTraining(make, batch_size=0, steps=4)))
    torch.testing.assert_close(found, by_hand(make, 3, 4), rtol=1e-5, atol=1e-6)


def test_state_stays_with_the_client():
    make = lambda p: torch.optim.AdamW(p, 1e-2)  # noqa: E731
    found = weights(run(fb.LocalTraining(make, batch_size=0, steps=2, keep_optimizer=True)))
    torch.testing.assert_close(found, by_hand(make, 3, 2, keep=True), rtol=1e-5, atol=1e-6)
    anew = weights(run(fb.LocalTraining(make, batch_size=0, steps=2)))
    assert not torch.allclose(found, anew, atol=1e-4)


def test_a_schedule_goes_on_by_round():
    make = lambda p: torch.optim.SGD(p, 0.5)  # noqa: E731
    schedule = lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5)  # noqa: E731
    found = weights(run(fb.LocalTraining(make, schedule, batch_size=0)))
    torch.testing.assert_close(found, by_hand(make, 3, 1, schedule=schedule), rtol=1e-5, atol=1e-6)


def test_a_schedule_by_step_goes_on_where_state_stays():
    rates = []

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    local = fb.LocalTraining(
        lambda p: Spy(p, 1.0), lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5), "step", 0, steps=2,
        keep_optimizer=True,
    )  # fmt: skip
    run(local, CLIENTS[:1], rounds=2)
    assert rates == [1.0, 0.5, 0.25, 0.125]


def test_accumulated_batches_are_one_batch():
    make = lambda p: torch.optim.SGD(p, 0.1)  # noqa: E731
    one = weights(run(fb.LocalTraining(make, batch_size=0)))
    four = weights(run(fb.LocalTraining(make, batch_size=5, accumulate=3)))  # 12 examples: 5, 5 and 2
    torch.testing.assert_close(one, four, rtol=1e-5, atol=1e-6)


def test_clipping_and_sgd_agree_with_local_sgd():
    ours = run(fb.LocalSGD(0.3, 0.9, batch_size=5, clip=0.5, epochs=2))
    theirs = run(fb.LocalTraining(lambda p: torch.optim.SGD(p, 0.3, momentum=0.9), batch_size=5, clip=0.5, epochs=2))
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-5, atol=1e-6)
    assert [r.accuracy for r in ours.reports] == [r.accuracy for r in theirs.reports]


def test_bf16_trains_another_way():
    make = lambda p: torch.optim.SGD(p, 0.5)  # noqa: E731
    half, full = run(fb.LocalTraining(make, amp="bf16"), rounds=5), run(fb.LocalTraining(make), rounds=5)
    assert not torch.equal(weights(half), weights(full))
    torch.testing.assert_close(weights(half), weights(full), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("method", ["fedprox", "lbgm+topk", "intrinsic@dim=20"])
def test_methods_and_processes(method):
    local = fb.LocalTraining(lambda p: torch.optim.AdamW(p, 1e-2), keep_optimizer=True, batch_size=4)
    one, two = (run(local, DICTS, method, processes=n) for n in (1, 2))
    assert torch.equal(weights(one), weights(two))
    assert one.ledger.frame_bytes == two.ledger.frame_bytes


def test_a_stopped_run_goes_on(tmp_path):
    local = fb.LocalTraining(lambda p: torch.optim.AdamW(p, 1e-2), keep_optimizer=True, batch_size=4)
    whole = run(local, DICTS, "topk", 4)
    run(local, DICTS, "topk", 2, out=tmp_path)
    assert torch.equal(weights(whole), weights(run(local, DICTS, "topk", 4, out=tmp_path)))


def test_another_optimizer_is_another_run(tmp_path):
    run(fb.LocalTraining(lambda p: torch.optim.SGD(p, 0.1)), rounds=1, out=tmp_path)
    with pytest.raises(fb.LocalError, match="local training"):
        run(fb.LocalTraining(lambda p: torch.optim.SGD(p, 0.2)), rounds=2, out=tmp_path)


def test_a_function_trains():
    def train(model, data, context):
        x, y = data
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(2):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            context.correct()
            optimizer.step()

    found = run(train)
    torch.testing.assert_close(weights(found), by_hand(lambda p: torch.optim.SGD(p, 0.1), 3, 2), rtol=1e-5, atol=1e-6)
    assert run(train, method="fedprox").reports[-1].clients == 4


def test_what_a_method_adds_joins_the_gradients_of_a_function():
    def train(model, data, context):
        x, y = data
        optimizer = torch.optim.SGD(model.parameters(), 0.3)
        for _ in range(4):
            optimizer.zero_grad()  # drops the gradients: backward makes new ones
            nn.functional.cross_entropy(model(x), y).backward()
            context.correct()
            optimizer.step()

    expected = weights(run(fb.LocalSGD(0.3, batch_size=0, steps=4), method="fedprox@mu=1"))
    torch.testing.assert_close(weights(run(train, method="fedprox@mu=1")), expected, rtol=1e-5, atol=1e-6)


def test_a_function_must_add_what_the_method_adds():
    with pytest.raises(fb.LocalError, match=r"context\.correct\(\)"):
        run(lambda model, data, context: None, method="fedprox@mu=0.1")


@pytest.mark.parametrize(
    ("local", "says"),
    [
        (lambda: fb.LocalTraining(torch.optim.SGD(net().parameters(), 0.1)), "function that makes one"),
        (lambda: fb.LocalTraining(lambda p: 3), "must make a torch optimizer; it made a int"),
        (lambda: fb.LocalTraining(lambda p: torch.optim.SGD(net().parameters(), 0.1)), "no trained parameters"),
        (lambda: fb.LocalTraining(lambda p: torch.optim.SGD(p, 0.1), lambda o: 3), "must make a scheduler"),
        (lambda: fb.LocalTraining(lambda p: torch.optim.SGD(p, 0.1), amp="fp16"), "needs a GPU"),
        (lambda: fb.LocalTraining(lambda p: torch.optim.SGD(p, 0.1), amp="int8"), "amp"),
        (lambda: "adam", "must be a LocalSGD"),
        (lambda: lambda model, data, context: "done", "must return None"),
    ],
)
def test_what_is_wrong_is_said_before_or_in_round_1(local, says):
    with pytest.raises(fb.LocalError, match=says):
        run(local(), rounds=1)


def test_no_figure_of_a_rate_that_nobody_knows():
    report = run(fb.LocalTraining(lambda p: torch.optim.Adam(p, 0.01)), method="lbgm@threshold=1").reports[-1]
    assert report.recycled is not None
    assert report.floor is None
    assert run(fb.LocalSGD(0.1), method="lbgm@threshold=1").reports[-1].floor is not None


def test_scaffold_needs_sgd():
    with pytest.raises(fb.LocalError, match="LocalSGD"):
        run(fb.LocalTraining(lambda p: torch.optim.Adam(p, 0.1)), method="scaffold")


def test_a_comparison_says_what_its_runs_note():
    local = fb.LocalTraining(
        lambda p: torch.optim.SGD(p, 0.1),
        schedule=lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda e: float(e > 0)),
    )
    found = fb.compare(net(), CLIENTS, ["dense"], seeds=[3], rounds=2, local=local)
    assert any("dense, seed 3: " in note and "learning rate is 0 in round 1" in note for note in found.notes)


def test_a_schedule_of_another_optimizer_is_refused():
    other = torch.optim.SGD(net().parameters(), 0.1)
    local = fb.LocalTraining(
        lambda p: torch.optim.SGD(p, 0.1), schedule=lambda _: torch.optim.lr_scheduler.ConstantLR(other)
    )
    with pytest.raises(fb.LocalError, match="ConstantLR of another optimizer"):
        run(local)


def test_a_warm_up_from_zero_is_said():
    schedule = lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda n: n / 4)  # noqa: E731
    notes = run(fb.LocalTraining(lambda p: torch.optim.SGD(p, 0.1), schedule)).notes
    assert any("learning rate is 0 in round 1" in note for note in notes)


def trained_adam():
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    nn.functional.cross_entropy(model(X), Y).backward()
    optimizer.step()
    return optimizer


def test_optimizer_state_as_bytes():
    optimizer = trained_adam()
    data, other = dump_optimizer(optimizer, 7), torch.optim.Adam(net().parameters(), 0.2)
    assert load_optimizer(other, data) == 7
    assert other.param_groups[0]["lr"] == 0.2
    before, after = optimizer.state_dict()["state"], other.state_dict()["state"]
    assert all(torch.equal(before[i][name], after[i][name]) for i in before for name in before[i])


@pytest.mark.parametrize("damage", [lambda d: d[:-3], lambda d: b"", lambda d: d[:8] + b"x" + d[9:], lambda d: d * 2])
def test_damaged_state_is_refused(damage):
    with pytest.raises(fb.WireError):
        load_optimizer(torch.optim.Adam(net().parameters(), 0.1), damage(dump_optimizer(trained_adam(), 1)))


def test_state_of_another_model_is_refused():
    other = nn.Linear(2, 2)
    with pytest.raises(fb.WireError, match="parameter"):
        load_optimizer(torch.optim.Adam(other.parameters(), 0.1), dump_optimizer(trained_adam(), 1))


def test_fit_on_tensors_is_train():
    one, two = FlatModel(net()), FlatModel(net())
    local, key = fb.LocalSGD(0.1, batch_size=5), fb.Key(3)
    local.train(one, X, Y, torch.arange(48).numpy(), key)
    local.fit(two, TensorExamples(X, Y), key)
    assert torch.equal(one.whole, two.whole)


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, torch.optim.SparseAdam])
def test_optimizers_that_need_more_than_gradients_are_refused_before_a_round(kind):
    data = [(torch.randn(8, 3), torch.arange(8) % 2)] * 2
    with pytest.raises(fb.LocalError, match=f"optimizer made an? {kind.__name__}, wh.*take another, such as AdamW"):
        fb.federate(nn.Linear(3, 2), data, "dense", rounds=1, local=fb.LocalTraining(lambda p: kind(p, lr=0.1)))
