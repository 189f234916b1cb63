"""Noise of the user's code comes from the key: on any number of processes the same, and nothing leaks out."""

import random
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

import fewbits as fb
from fewbits import topology
from fewbits.engines.common.schedule import Schedule
from fewbits.engines.common.task import Task
from fewbits.engines.simulation import Federation
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.local import LocalSGD
from fewbits.learn.objective import Objective
from fewbits.learn.private_generators import unreachable
from fewbits.learn.seeding import draws, guarded, loss_draws, seeded


def plain():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


class Wrapped(nn.Module):
    """`plain` after a function of the input that draws."""

    def __init__(self, noise):
        super().__init__()
        self.inner, self.noise = plain(), noise

    def forward(self, x):
        return self.inner(self.noise(x) if self.training else x)


class Noise(nn.Module):
    def forward(self, x):
        return x + 0.1 * torch.randn_like(x)


class NoisyLoss(nn.CrossEntropyLoss):
    def forward(self, output, y):
        return super().forward(output + 0.1 * torch.randn_like(output), y)


@dataclass(frozen=True)
class Shaken(LocalSGD):
    """Langevin steps."""

    wire_name = "shaken"

    def _step(self, model, momentum):
        super()._step(model, momentum)
        model.params.add_(0.01 * torch.randn(len(model.params)))


def hooked(register, layer=0):
    def build():
        model = plain()
        register(model[layer])
        return model

    return build


def noisy_output(module, args, output):
    return output + 0.1 * torch.randn_like(output)


def noisy_input(module, args):
    return (args[0] + 0.1 * torch.randn_like(args[0]),)


def noisy_gradient(module, grads, outputs):
    return tuple(None if g is None else g + 0.01 * torch.randn_like(g) for g in grads)


def noisy_loss_gradient(module, grads):
    return tuple(g + 0.01 * torch.randn_like(g) for g in grads)


def parametrized():
    model = plain()
    parametrize.register_parametrization(model[0], "weight", Noise(), unsafe=True)
    return model


def overridden():
    model = plain()
    model[1].forward = lambda x: functional.dropout(x, 0.5, training=model.training)
    return model


def loss_of(noise):
    return lambda output, y: cross_entropy(output + 0.1 * noise(output), y)


def of_numpy(x):
    return torch.from_numpy(np.random.normal(0, 1, tuple(x.shape)).astype("f"))  # noqa: NPY002


def of_python(x):
    return torch.tensor([random.gauss(0, 1) for _ in range(x.numel())]).view(x.shape)


def smoothed(output, y, noise):
    return cross_entropy(output + noise * torch.randn_like(output), y)


KINDS = {
    "loss": (plain, loss_of(torch.randn_like)),
    "loss, NumPy": (plain, loss_of(of_numpy)),
    "loss, Python": (plain, loss_of(of_python)),
    "loss module": (plain, NoisyLoss()),
    "partial": (plain, partial(smoothed, noise=0.1)),
    "forward hook": (hooked(lambda m: m.register_forward_hook(noisy_output)), None),
    "forward pre-hook": (hooked(lambda m: m.register_forward_pre_hook(noisy_input)), None),
    "backward hook": (hooked(lambda m: m.register_full_backward_hook(noisy_gradient), 2), None),
    "backward pre-hook": (hooked(lambda m: m.register_full_backward_pre_hook(noisy_loss_gradient), 2), None),
    "NumPy in forward": (lambda: Wrapped(lambda x: x + 0.1 * of_numpy(x)), None),
    "Python in forward": (lambda: Wrapped(lambda x: x + 0.1 * of_python(x)), None),
    "functional dropout": (lambda: Wrapped(lambda x: functional.dropout(x, 0.3)), None),
    "checkpoint": (lambda: Wrapped(lambda x: checkpoint(functional.dropout, x, use_reentrant=False)), None),
    "a class of its own": (lambda: nn.Sequential(Noise(), *plain()), None),
    "parametrization": (parametrized, None),
    "forward of one module": (overridden, None),
}


def data(nodes=3, size=20):
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(size, 6, generator=generator), torch.randint(0, 3, (size,), generator=generator))
        for _ in range(nodes)
    ]


@contextmanager
def generators(seed):
    """Global generators of a program around a run; afterwards they must be where they were."""
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(kept[0]), np.random.set_state(kept[1]), random.setstate(kept[2])  # noqa: NPY002


def next_draws():
    return float(torch.rand(1)), float(np.random.normal()), random.random()  # noqa: NPY002


def initial(build):
    with generators(0):
        return build()


def flat(model):
    return torch.cat([x.detach().reshape(-1) for x in model.parameters()])


@pytest.mark.parametrize("kind", KINDS)
def test_one_key_gives_one_model_on_any_number_of_processes_and_leaves_the_callers_generators_alone(kind):
    build, loss = KINDS[kind]
    found, drawn = [], []
    for processes in (1, 2, 3) if kind == "loss" else (1, 2):
        model = initial(build)
        with generators(7 + processes):
            np.random.normal()  # noqa: NPY002 - NumPy keeps the second number of a pair
            expected = next_draws()
        with generators(7 + processes):
            np.random.normal()  # noqa: NPY002
            result = fb.federate(model, data(), "dense", 2, loss=loss, processes=processes)
            drawn.append(next_draws() == expected)
        assert result.notes == []
        found.append(flat(model))
    assert all(torch.equal(found[0], other) for other in found) and all(drawn)
    model = initial(build)
    fb.federate(model, data(), "dense", 2, loss=loss, seed=1)
    assert not torch.equal(flat(model), found[0])


@pytest.mark.parametrize("kind", ["loss, NumPy", "forward hook", "Python in forward"])
def test_without_a_server_one_key_gives_the_same_models(kind):
    build, loss = KINDS[kind]
    found = []
    for processes in (1, 2):
        model = initial(build)
        with generators(processes):
            result = fb.gossip(
                model, data(4), topology.ring(4), "choco", 2, loss=loss, processes=processes, test=data()[0]
            )
        found.append((result.models.clone(), [vars(r) | {"seconds": 0} for r in result.reports]))
    assert torch.equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]


def test_steps_and_objectives_of_others_are_seeded_too():
    @dataclass(frozen=True)
    class Jitter(Objective):
        wire_name = "jitter"

        def term(self, start, server_vectors, client_vectors):
            return lambda params, grads: grads.add_(0.01 * torch.randn(len(grads)))

        def finish(self, start, end, server_vectors, client_vectors, steps, lr):
            return (), ()

    for local, objective in ((Shaken(lr=0.1), None), (LocalSGD(lr=0.1), Jitter())):
        found = []
        for processes in (1, 2):
            method = fb.methods.dense()
            if objective is not None:
                method = fb.learn.Method(method.name, method.up, method.down, objective=objective)
            model = initial(plain)
            with generators(processes):
                Federation(
                    Task.of(model, data(), None, local), method, Schedule(2, processes=processes), fb.Key(0)
                ).run()
            found.append(flat(model))
        assert torch.equal(*found)


def test_noise_in_evaluation_does_not_depend_on_the_number_of_processes():
    found = []
    for processes in (1, 2):
        model = initial(lambda: nn.Sequential(Noise(), *plain()))
        with generators(processes):
            expected = next_draws()
        with generators(processes):
            result = fb.federate(model, data(), "dense", 2, test=data(1, 1200)[0], processes=processes)
            assert next_draws() == expected
        found.append([(r.accuracy, r.loss) for r in result.reports])
    assert found[0] == found[1]


def test_a_failing_turn_leaves_the_callers_generators_alone():
    def loss(output, y):
        torch.rand(3), np.random.rand(), random.random()  # noqa: NPY002
        raise ValueError("no")

    with generators(3):
        expected = next_draws()
    with generators(3):
        with pytest.raises(fb.LocalError, match="ValueError: no"):
            fb.federate(plain(), data(), "dense", 2, loss=loss)
        drawn = next_draws()
    with generators(3):
        plain()  # building the model draws
        assert drawn == next_draws() != expected


def test_a_hook_that_is_registered_later_is_noticed():
    model = FlatModel(plain())
    assert not model.draws
    local, (x, y) = LocalSGD(lr=0.1), data()[0]
    rows, found = np.arange(20), []
    local.train(model, x, y, rows, fb.Key(0))
    start = model.vector()
    model.module[0].register_forward_hook(noisy_output)
    for seed in (1, 2):
        model.load_vector(start)
        with generators(seed):
            local.train(model, x, y, rows, fb.Key(0))
        found.append(model.vector())
    assert torch.equal(*found)


def test_plain_models_with_torchs_losses_are_known_not_to_draw():
    assert not draws(plain()) and not draws(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten()))
    factored = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    fb.methods.named("fedpara").prepare(factored, fb.Key(0))
    assert not draws(factored), "our hooks draw from keys alone"
    for loss in (cross_entropy, functional.mse_loss, nn.CrossEntropyLoss(), nn.MSELoss()):
        assert not loss_draws(loss)
    for build, loss in KINDS.values():
        assert draws(build()) or loss_draws(loss)


def test_seeding_within_a_guard_does_not_restore_but_the_guard_does():
    with generators(5):
        expected = next_draws()
    with generators(5):
        with guarded():
            with seeded(fb.Key(1)):
                first = next_draws()
            assert next_draws() != first
            with seeded(fb.Key(1)):
                assert next_draws() == first
        assert next_draws() == expected


# --- Generators that no key reaches

PRIVATE = torch.Generator()


class Holder:
    def __init__(self, generator):
        self.parts = {"inner": [generator]}

    def __call__(self, output, y):
        return cross_entropy(output, y)


def with_attribute():
    model = plain()
    model.random = np.random.default_rng(0)
    return model


def with_hook():
    model, generator = plain(), random.Random(0)
    model[0].register_forward_hook(lambda module, args, output: output + generator.random())
    return model


def global_loss(output, y):
    return cross_entropy(output + torch.randn(output.shape, generator=PRIVATE), y)


def closed_loss():
    generator = np.random.default_rng(0)
    return lambda output, y: cross_entropy(output, y) * generator.random()


@pytest.mark.parametrize(
    "build,loss,name",
    [
        (with_attribute, None, "model.random"),
        (with_hook, None, "model.0._forward_hooks"),
        (plain, Holder(torch.Generator()), "loss.parts['inner'][0]"),
        (plain, Holder(np.random.RandomState(0)), "loss.parts['inner'][0]"),
        (plain, global_loss, "loss (PRIVATE)"),
        (plain, closed_loss(), "loss"),
        (plain, partial(lambda output, y, g: cross_entropy(output, y), g=random.Random(1)), "loss"),
        (lambda: Wrapped(lambda x, g=np.random.default_rng(0): x), None, "model.noise"),
    ],
)
def test_a_generator_that_no_key_reaches_is_named_in_a_note(build, loss, name):
    (sentence,) = fb.federate(build(), data(), "dense", 1, loss=loss).notes
    assert sentence.startswith(name) and "the run's seed does not reach" in sentence
    assert unreachable(build(), loss) == fb.gossip(build(), data(), topology.ring(3), "dsgd", 1, loss=loss).notes


def test_global_generators_and_torchs_own_parts_are_no_private_ones():
    for build, loss in KINDS.values():
        assert unreachable(build(), loss) == []
    recursive = plain()
    recursive.list = [recursive]
    assert unreachable(recursive) == []
