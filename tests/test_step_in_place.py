"""An outer step in place: the bits of the step in fresh memory, and what holds when it cannot be taken."""

import pytest
import torch
from torch import nn

import fewbits as fb
from fewbits.learn.optimizers import ServerSGD
from fewbits.learn.optimizers.sgd import LONG
from fewbits.replicas.joined import Room, joined
from fewbits.replicas.outer_model import OuterModel

RULES = [ServerSGD(), ServerSGD(0.3, 0.9), ServerSGD(0.7, 0.9, nesterov=True)]


def drawn(seed: int, dtype: torch.dtype, numel: int = LONG + 5) -> torch.Tensor:
    return torch.randn(numel, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_one_pass_over_a_long_vector_gives_the_bits_of_the_formula_in_parts_or_at_once(rule, dtype):
    theta, update, momentum = (drawn(seed, dtype) for seed in range(3))
    along, moments = update, (momentum,) if rule.momentum else ()
    if moments:
        after = momentum * rule.momentum + update
        along = after * rule.momentum + update if rule.nesterov else after
    expected = theta - along * rule.lr
    assert torch.equal(rule.step(theta, update, moments)[0], expected)
    found = theta.clone()
    for part in (slice(0, 7), slice(7, 7), slice(7, None)):  # a short one by torch, a long one by the kernel
        rule.step_(found[part], update[part], tuple(m[part] for m in moments))
    assert torch.equal(found, expected)
    assert not moments or torch.equal(momentum, after)


def replicas(rule: ServerSGD, size: int) -> tuple[list[nn.Module], fb.distributed.Replicas]:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(256, 300), nn.BatchNorm1d(300), nn.Linear(300, 4))
    models: list[nn.Module] = [first]
    for _ in range(size - 1):
        models.append(nn.Sequential(nn.Linear(256, 300), nn.BatchNorm1d(300), nn.Linear(300, 4)))
        models[-1].load_state_dict(first.state_dict())
    return models, fb.distributed.Replicas(models, every=1, optimizer=rule)


def train(models: list[nn.Module], size: float = 0.1) -> None:
    for seed, model in enumerate(models):
        for p in model.parameters():
            p.data.add_(size * drawn(seed, p.dtype, p.numel()).view(p.shape))


@pytest.mark.parametrize("size", [2, 3], ids=["to all", "in slices"])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_replicas_have_the_bits_of_steps_in_fresh_memory(rule, size, monkeypatch):
    ends = []
    for fresh in (False, True):
        if fresh:
            monkeypatch.setattr(OuterModel, "_reach", lambda *_: None)
        models, run = replicas(rule, size)
        for _ in range(3):
            train(models)
            run.step()
        ends.append([repr(run.state_dicts()), *(x for x in models[0].state_dict().values())])
    assert ends[0][0] == ends[1][0]
    assert all(map(torch.equal, ends[0][1:], ends[1][1:]))


@pytest.mark.parametrize("size", [2, 3], ids=["to all", "in slices"])
def test_a_step_that_would_leave_the_floats_is_refused_and_nothing_has_moved(size):
    models, run = replicas(ServerSGD(5.0), size)
    train(models)
    run.step()
    before = repr(run.state_dicts())
    train(models, 3e37)
    with pytest.raises(fb.WireError, match="outer step 2 would leave the range"):
        run.step()
    assert repr(run.state_dicts()) == before


def test_values_so_large_that_bounds_do_not_tell_are_stepped_all_the_same():
    models, run = replicas(ServerSGD(), 2)
    for model in models:
        model[0].bias.data[:] = -1.6e38  # type: ignore[index]
    models, run = models, fb.distributed.Replicas(models, every=1, optimizer=ServerSGD())
    for model in models:
        model[0].bias.data[:] = -1.5e38  # type: ignore[index]
    run.step()
    assert torch.equal(models[0][0].bias, torch.full((300,), -1.5e38))  # type: ignore[index]


def test_a_step_interrupted_within_is_said_until_a_state_is_loaded(monkeypatch):
    models, run = replicas(RULES[2], 3)
    train(models)
    run.step()
    saved = run.state_dicts()
    train(models)
    with monkeypatch.context() as patch:
        calls = []

        def interrupted(*_: object) -> None:
            calls.append(None)
            if len(calls) == 2:
                raise KeyboardInterrupt

        patch.setattr(ServerSGD, "step_", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.step()
    with pytest.raises(fb.LocalError, match="interrupted half-way; load the last states on all ranks"):
        run.step()
    run.load_state_dicts(saved)
    assert run.step()


@pytest.mark.parametrize("shift", [0, 4, -4, 100])
def test_a_room_takes_pieces_wherever_they_lie_in_it(shift):
    room = Room(64, torch.float32, beside=200)
    data = bytes(range(256))
    at = 16 + max(0, shift)
    memory = memoryview(room.message.numpy()).cast("B")
    memory[at + min(0, shift) : at + min(0, shift) + 256] = data
    payload = memory[at + min(0, shift) : at + min(0, shift) + 256]
    assert bytes(joined([b"h" * 12, b"c" * 4, payload, b"beside"], room)) == b"h" * 12 + b"c" * 4 + data + b"beside"
