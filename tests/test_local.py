"""Local training: one flat buffer, torch.optim.SGD's rule, the key decides everything."""

import itertools
from itertools import chain

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize

import fewbits as fb
from fewbits.errors import LocalError
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.local import LocalReport, LocalSGD, evaluate, select
from fewbits.rng import Key


def net(seed: int = 0, *extra: nn.Module) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), *extra, nn.Flatten(), nn.Linear(64, 3)
        )


def examples(n: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 1, 4, 4, generator=generator), torch.randint(0, 3, (n,), generator=generator)


# --- FlatModel


def test_named_are_views_in_declaration_order_parameters_first():
    module = net()
    expected = [name for name, _ in module.named_parameters()] + ["1.running_mean", "1.running_var"]
    model = FlatModel(module)
    assert list(model.named()) == expected == [*model.parameter_names, *model.buffer_names]
    model.params.fill_(2.0)
    assert all(bool((p == 2).all()) for p in module.parameters())
    model.named()["4.bias"].fill_(3.0)
    assert bool((model.params[-3:] == 3).all())


def test_laying_out_changes_neither_outputs_nor_gradients():
    x, y = examples()
    plain, module = net(), net()
    model = FlatModel(module)
    for each in (plain, module):
        cross_entropy(each(x), y).backward()
    flat = torch.cat([p.grad.flatten() for p in plain.parameters()])
    torch.testing.assert_close(model.grads, flat)
    torch.testing.assert_close(model.buffers[4:], plain[1].running_var)


def test_vector_and_load_are_inverse_and_vector_is_a_copy():
    a, b = FlatModel(net(0)), FlatModel(net(1))
    before = a.vector()
    b.load_vector(before)
    assert torch.equal(b.vector(), before)
    c = FlatModel(net(2))
    c.load(a.named())
    assert torch.equal(c.vector(), before)
    a.params.zero_()
    assert not torch.equal(a.vector(), before)


def test_load_refuses_missing_extra_and_misshapen_and_changes_nothing():
    model = FlatModel(net())
    before = model.vector()
    good = {name: x + 1 for name, x in model.named().items()}
    first = model.parameter_names[0]
    with pytest.raises(LocalError, match="missing"):
        model.load({name: x for name, x in good.items() if name != first})
    with pytest.raises(LocalError, match="stranger"):
        model.load(good | {"stranger": torch.zeros(1)})
    with pytest.raises(LocalError, match="shape"):
        model.load(good | {model.buffer_names[-1]: torch.zeros(5)})
    with pytest.raises(LocalError, match="one vector"):
        model.load_vector(before[:-1])
    assert torch.equal(model.vector(), before)


def test_tied_parameters_are_laid_out_once():
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    module[1].weight = module[0].weight
    model = FlatModel(module)
    assert model.params.shape == (9,)
    assert module[1].weight is module[0].weight


def test_frozen_parameters_and_integer_buffers_are_not_exchanged():
    module = net()
    module[0].weight.requires_grad_(False)
    names = FlatModel(module).named()
    assert "0.weight" not in names
    assert "1.num_batches_tracked" not in names


def test_lstm_computes_on_the_flat_buffer():
    module = nn.LSTM(2, 3, 2)
    model = FlatModel(module)
    x = torch.ones(4, 1, 2)
    before = module(x)[0].detach()
    module(x)[0].sum().backward()
    assert all(bool(p.grad.any()) for p in module.parameters())
    model.params.add_(0.1)
    assert not torch.equal(module(x)[0], before)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def test_parametrized_modules_train_their_original_tensor():
    module = nn.Linear(2, 2)
    parametrize.register_parametrization(module, "weight", Doubled())
    model = FlatModel(module)
    assert "parametrizations.weight.original" in model.parameter_names
    model.params.fill_(1.0)
    torch.testing.assert_close(module(torch.ones(1, 2)), torch.full((1, 2), 5.0))
    module(torch.ones(1, 2)).sum().backward()
    assert bool(model.grads.all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_only_float32_is_laid_out(dtype):
    with pytest.raises(LocalError, match="float32"):
        FlatModel(nn.Linear(2, 2).to(dtype))


def test_a_module_without_parameters_is_refused():
    with pytest.raises(LocalError, match="no trainable parameter"):
        FlatModel(nn.ReLU())


def test_attach_heals_dropped_gradients_and_takes_replaced_tensors_over():
    module = net()
    model = FlatModel(module)
    module.zero_grad(set_to_none=True)
    model.attach()
    assert module[0].weight.grad.data_ptr() == model.grads.data_ptr()
    module[1].running_mean = torch.full_like(module[1].running_mean, 7.0)
    module[0].weight.data = module[0].weight.data.clone() + 1
    before = module[0].weight.detach().clone()
    model.attach()
    assert torch.equal(model.named()["0.weight"], before) and bool((model.named()["1.running_mean"] == 7).all())
    model.whole.fill_(3.0)
    assert bool((module[0].weight == 3).all()) and bool((module[1].running_mean == 3).all())


# --- LocalSGD


SETTINGS = [
    LocalSGD(lr=0.1),
    LocalSGD(lr=0.1, momentum=0.9, weight_decay=0.01, epochs=2),
    LocalSGD(lr=0.1, momentum=0.5, clip=0.2, batch_size=7),
    LocalSGD(lr=0.1, weight_decay=0.1, clip=0.1, steps=7, batch_size=8),
    LocalSGD(lr=0.1, momentum=0.9, batch_size=0, epochs=3),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_update_rule_is_torch_optim_sgd(settings):
    x, y = examples()
    rows, key = np.arange(3, 33), Key(5)
    model, oracle = FlatModel(net()), net()
    report = settings.train(model, x, y, rows, key)
    sgd = torch.optim.SGD(oracle.parameters(), settings.lr, settings.momentum, weight_decay=settings.weight_decay)
    batches = list(settings.batches(rows, key))
    losses = []
    for batch in batches:
        sgd.zero_grad()
        loss = cross_entropy(oracle(x[batch]), y[batch])
        loss.backward()
        if settings.clip is not None:
            nn.utils.clip_grad_norm_(oracle.parameters(), settings.clip)
        sgd.step()
        losses += [loss.item()] * len(batch)
    expected = FlatModel(oracle)
    torch.testing.assert_close(model.vector(), expected.vector(), rtol=1e-4, atol=1e-5)
    assert report == LocalReport(len(batches), 30, pytest.approx(np.mean(losses), rel=1e-4))


def test_each_epoch_is_another_permutation_of_the_clients_rows():
    rows = np.array([5, 8, 2, 9, 4, 21, 13])
    batches = [b.tolist() for b in LocalSGD(lr=1, batch_size=2, epochs=2).batches(rows, Key(0))]
    assert [len(b) for b in batches] == [2, 2, 2, 1] * 2
    first, second = (list(chain(*half)) for half in (batches[:4], batches[4:]))
    assert sorted(first) == sorted(second) == sorted(rows)
    assert first != second
    assert first == rows[Key(0).fold("epoch", 0).permutation(7)].tolist()


@pytest.mark.parametrize("batch_size,steps,lengths", [(0, None, [5]), (2, 4, [2, 2, 1, 2]), (9, 2, [5, 5])])
def test_steps_and_batch_sizes(batch_size, steps, lengths):
    settings = LocalSGD(lr=1, batch_size=batch_size, steps=steps)
    assert [len(b) for b in settings.batches(np.arange(5), Key(0))] == lengths


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trained(key: Key, *extra: nn.Module) -> torch.Tensor:
    model = FlatModel(net(0, *extra))
    LocalSGD(lr=0.1, momentum=0.9).train(model, *examples(), np.arange(40), key)
    return model.vector()


@pytest.mark.parametrize("extra", [(), (nn.Dropout(0.5),)], ids=["plain", "dropout"])
def test_same_key_same_bits_and_the_global_generator_is_untouched(one_thread, extra):
    before = torch.get_rng_state()
    first = trained(Key(1), *extra)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng([]):
        torch.manual_seed(123)
        assert torch.equal(trained(Key(1), *extra), first)
    assert not torch.equal(trained(Key(2), *extra), first)


def test_dropout_noise_comes_from_the_key(one_thread):
    x, y = examples()
    results = []
    for key in (Key(1), Key(1), Key(2)):
        model = FlatModel(net(0, nn.Dropout(0.5)))
        LocalSGD(lr=0.1, batch_size=0).train(model, x, y, np.arange(50), key)  # one order for all keys
        results.append(model.vector())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_own_loss_and_correction_take_part():
    x, y = examples()
    seen = []

    def correct(model: FlatModel) -> None:
        seen.append(float(model.grads.norm()))
        model.grads.zero_()

    model = FlatModel(net())
    before = model.params.clone()
    settings = LocalSGD(lr=0.1, batch_size=0)
    report = settings.train(model, x, y, np.arange(9), Key(0), loss=lambda o, t: 7 + o.sum() * 0, correct=correct)
    assert report.loss == 7
    assert seen == [0.0]
    assert torch.equal(model.params, before)


def test_sequences_train_and_are_scored_by_position():
    module = nn.Sequential(nn.Embedding(4, 5), nn.Flatten(0, 0), nn.Linear(5, 3))

    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = module

        def forward(self, x):
            return self.net(x).transpose(1, 2)

    x = torch.arange(4).repeat(6, 2)  # (6, 8)
    y = x % 3
    model = FlatModel(Sequence())
    LocalSGD(lr=0.5, momentum=0.9, epochs=40, batch_size=3).train(model, x, y, np.arange(6), Key(0))
    accuracy, loss = evaluate(model, x, y, batch=4)
    assert accuracy == 1.0
    assert loss < 0.1


def test_evaluate_is_the_plain_mean_and_restores_every_mode():
    x, y = examples()
    module = net()
    module[1].eval()
    modes = [part.training for part in module.modules()]
    buffers = FlatModel(module).buffers.clone()
    accuracy, loss = evaluate(module, x, y, batch=7)
    assert [part.training for part in module.modules()] == modes
    assert torch.equal(FlatModel(module).buffers, buffers)
    module.eval()
    outputs = module(x)
    assert accuracy == pytest.approx((outputs.argmax(1) == y).float().mean().item())
    assert loss == pytest.approx(cross_entropy(outputs, y).item(), rel=1e-5)


def test_select_scales_pixels_and_lays_images_out_channels_last():
    pixels = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    rows = torch.tensor([1, 0])
    expected = pixels[rows].float() / 127.5 - 1
    for x in (pixels, pixels.contiguous(memory_format=torch.channels_last)):
        got = select(x, rows)
        torch.testing.assert_close(got, expected)
        assert got.is_contiguous(memory_format=torch.channels_last)
    tokens = torch.arange(6).view(3, 2)
    assert torch.equal(select(tokens, rows), tokens[rows])


@pytest.mark.parametrize(
    "indices", [np.zeros(0, np.int64), np.array([50]), np.array([-1]), np.array([0.5]), np.zeros((2, 2), np.int64)]
)
def test_bad_rows_are_refused(indices):
    with pytest.raises(LocalError):
        LocalSGD(lr=0.1).train(FlatModel(net()), *examples(), indices, Key(0))


@pytest.mark.parametrize(
    "bad",
    [{"lr": 0}, {"lr": float("nan")}, {"momentum": 1.0}, {"batch_size": -1}, {"epochs": 0}, {"steps": 0}, {"clip": 0}],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(LocalError, match=next(iter(bad))):
        LocalSGD(**({"lr": 0.1} | bad))


@pytest.mark.parametrize("method", ["dense", "masked+dense", "intrinsic@dim=2,scale=orthonormal,basis=hadamard"])
def test_a_falling_rate_is_that_of_the_round(method):
    """The gradient of the mean output is the same everywhere, so a round moves the model by its rate."""
    x, y = torch.ones(4, 2), torch.zeros(4)
    moved, before = [], []
    for rounds in range(1, 6):
        torch.manual_seed(0)
        model = torch.nn.Linear(2, 1, bias=False)
        before = before or [model.weight.detach().clone()]
        local = LocalSGD(lr=0.5, falling=3, batch_size=0)
        fb.federate(model, [(x, y)] * 2, method, rounds=rounds, local=local, loss=lambda out, y: out.mean())
        moved.append(float((before[0] - model.weight.detach()).sum()))
    steps = [b - a for a, b in itertools.pairwise([0.0, *moved])]
    assert steps == pytest.approx([2 * 0.5 * part for part in (1, 0.7, 0.4, 0.1, 0.1)], abs=1e-4)


def test_a_rate_falls_to_the_part_that_is_asked_for():
    local = LocalSGD(lr=0.5, falling=4, end_factor=0.2)
    assert [local.at(number).lr for number in (1, 3, 5, 9)] == pytest.approx([0.5, 0.3, 0.1, 0.1])
    assert local.at(3).at(2) == local.at(3)  # it is constant then


@pytest.mark.parametrize("wrong", [0.0, -0.1, 1.01, float("nan")])
def test_a_part_that_is_none_is_refused(wrong):
    with pytest.raises(LocalError, match="LocalSGD: end_factor"):
        LocalSGD(lr=0.1, falling=3, end_factor=wrong)


def test_an_end_without_a_fall_is_refused():
    with pytest.raises(LocalError, match=r"end_factor=0\.01 is what is left of a falling rate, but falling=None"):
        LocalSGD(lr=0.1, end_factor=0.01)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True])
def test_a_rate_falls_over_a_whole_number_of_rounds(wrong):
    with pytest.raises(LocalError, match="LocalSGD: falling"):
        LocalSGD(lr=0.1, falling=wrong)
