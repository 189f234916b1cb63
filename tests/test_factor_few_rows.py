"""A factored linear layer multiplies few rows with its factors: the same function as with its composed weight."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import linear
from torch.nn.utils import parametrize

from fewbits.factor import Factorisation, few_rows, merge
from fewbits.rng import Key


def layer(form, bias=True, **options):
    made = Factorisation(form, 0.3, **options)(nn.Linear(30, 24, bias, dtype=torch.float64), Key(1))
    with torch.no_grad():
        for number, factor in enumerate(made.parameters()):  # pFedPara's second half starts at zero
            factor.copy_(torch.from_numpy(Key(2).fold(number).normal(factor.numel())).view(factor.shape))
    return made


def rows(*shape):
    return torch.from_numpy(Key(3).normal(torch.Size(shape).numel())).double().view(shape)


def step(made, x, weight=False):
    """Outputs and all gradients of one step."""
    x = x.clone().requires_grad_()
    made.zero_grad()
    y = linear(x, made.weight, made.bias) if weight else made(x)
    y.sin().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in made.parameters())]


@pytest.fixture
def products(monkeypatch):
    """The inputs that were multiplied with factors."""
    seen = []
    multiplied = few_rows._product
    monkeypatch.setattr(few_rows, "_product", lambda factors, x: seen.append(x) or multiplied(factors, x))
    return seen


@pytest.mark.parametrize("shape", [(1, 30), (3, 30), (2, 2, 30), (30,)])
@pytest.mark.parametrize("form", ["fedpara", "pfedpara", "lowrank"])
def test_few_rows_give_what_the_weight_gives(form, shape, products):
    for bias in (True, False):
        made, x = layer(form, bias), rows(*shape)
        for ours, plain in zip(step(made, x), step(made, x, weight=True), strict=True):
            torch.testing.assert_close(ours, plain)
    assert len(products) == 2


@pytest.mark.parametrize("form", ["fedpara", "pfedpara"])
def test_gradients_and_their_gradients_are_right(form):
    made = layer(form)
    factors = made.parametrizations.weight[0]
    inputs = [rows(2, 30), *(p.detach() for p in factors.parameters())]
    names = [f"of.{name}" for name, _ in factors.named_parameters()]

    def multiplied(x, *given):
        return torch.func.functional_call(Product(factors), dict(zip(names, given, strict=True)), (x,))

    inputs = [x.clone().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(multiplied, inputs)
    assert torch.autograd.gradgradcheck(multiplied, inputs)


class Product(nn.Module):
    def __init__(self, of):
        super().__init__()
        self.of = of

    def forward(self, x):
        return few_rows._product(self.of, x)


def test_the_weight_is_composed_where_that_is_cheaper_or_somebody_needs_it(products):
    made, x = layer("fedpara"), rows(2, 30)
    with parametrize.cached():
        y, weight = made(x), made.weight
        assert torch.autograd.grad(y.sum(), weight)[0].shape == (24, 30)
    made(rows(4000, 30))
    layer("fedpara", tanh=True)(x)
    assert not products
    made(x)
    assert len(products) == 1


def test_copies_multiply_so_too_and_merged_layers_do_not(products):
    made, x = layer("fedpara"), rows(2, 30)
    y = copy.deepcopy(made)(x)
    assert len(products) == 1
    torch.testing.assert_close(merge(made)(x), y)
    assert len(products) == 1 and merge(made).forward.__func__ is nn.Linear.forward
