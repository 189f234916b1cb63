"""What a client's code leaves on the model, beside numbers that travel, is seen by no other client of its process."""

import copy
import itertools
from collections import deque
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear
from torch.nn.modules import module as every_module

import fewbits as fb
from fewbits.engines.common.local_turn import train_locally
from fewbits.engines.common.task import Task
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.module_snapshot import ModuleSnapshot

generator = torch.Generator().manual_seed(0)
CLIENTS = [(torch.randn(12, 6, generator=generator), torch.arange(12) % 3) for _ in range(6)]
LEAVER = 3


def doubled(module, args, output):
    return 2 * output


def doubled_gradient(parameter):
    parameter.grad.mul_(2)


def sequential():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.1), nn.Linear(5, 3))


LEFT = {
    "1.p": lambda m: setattr(m[1], "p", 0.9),
    "_forward_hooks": lambda m: m.register_forward_hook(doubled),
    "2._forward_hooks": lambda m: m[2].register_forward_hook(doubled),
    "0._forward_pre_hooks": lambda m: m[0].register_forward_pre_hook(lambda m, args: (2 * args[0],)),
    "0.weight (hooks)": lambda m: m[0].weight.register_hook(lambda gradient: 2 * gradient),
    "2.weight (hooks)": lambda m: m[2].weight.register_post_accumulate_grad_hook(doubled_gradient),
    "_modules": lambda m: m.__setitem__(1, nn.Dropout(0.9)),
    "_modules ": lambda m: m.append(nn.Tanh()),
    "_modules  ": lambda m: m.__setitem__(0, copy.deepcopy(m[0])),
    "2.forward": lambda m: setattr(m[2], "forward", lambda x: linear(2 * x, m[2].weight)),
    "1.__class__": lambda m: setattr(m[1], "__class__", nn.Identity),
    "": lambda m: every_module.register_module_forward_hook(doubled),
    " ": lambda m: m[1].eval(),
    "  ": lambda m: m.double().float(),
}


def trainer(change, raises=False):
    def local(model, data, context):
        if context.client == LEAVER:
            change(model)
        x, y = data
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        cross_entropy(model(x), y).backward()
        optimizer.step()
        if raises and context.client == LEAVER:
            raise ValueError("no more")

    return local


def federate(local, processes, make=sequential, rounds=3, **options):
    return fb.federate(make(), CLIENTS, "dense", rounds, local=local, processes=processes, **options)


def gossip(local, processes, make=sequential, rounds=3, **options):
    return fb.gossip(make(), CLIENTS, fb.topology.ring(6), "dsgd", rounds, local=local, processes=processes, **options)


def outcome(result):
    return {name: x.tolist() for name, x in result.model.state_dict().items()}, result.notes


@pytest.mark.parametrize("raises", [False, True], ids=["", "raises"])
@pytest.mark.parametrize("name", LEFT)
@pytest.mark.parametrize("play", [federate, gossip])
def test_what_one_client_leaves_is_seen_by_no_other(play, name, raises):
    local = trainer(LEFT[name], raises)
    alone, several = (outcome(play(local, processes)) for processes in (1, 3))
    assert alone == several
    said = [note for note in alone[1] if note.startswith("training changed")]
    if not raises:
        sentence = f"training changed {name.strip()} of the model"
        assert [note.split(";")[0] for note in said] == ([sentence] if name.strip() else [])
    assert not every_module._global_forward_hooks


class Counter(nn.Module):
    """Its output depends on how often it was called: by a number, in a list, in an object, a tensor, an iterator."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen, self.calls, self.settings = nn.Linear(6, 3), 0, [], Settings()
        self.tensors, self.numbers = [torch.ones(3)], itertools.count(1)

    def forward(self, x):
        self.seen += 1
        self.calls.append(1)
        self.settings.scale[0] *= 1.1
        self.tensors[0].mul_(1.05)
        scale = 0.1 * (self.seen + len(self.calls) + next(self.numbers)) * self.settings.scale[0]
        return self.layer(x) * scale * self.tensors[0]


class Settings:
    def __init__(self):
        self.scale = [1.0]


def counter():
    torch.manual_seed(3)
    return Counter()


def figures(result):
    return [(report.loss, report.accuracy) for report in result.reports]


@pytest.mark.parametrize("local", [fb.LocalSGD(lr=0.1, batch_size=4), trainer(lambda m: None)], ids=["sgd", "function"])
@pytest.mark.parametrize("play", [federate, gossip])
def test_a_forward_that_counts_its_calls_counts_from_the_beginning_in_every_turn(play, local, tmp_path):
    options = {"make": counter, "test": CLIENTS[0]}
    alone, several = (play(local, processes, **options) for processes in (1, 3))
    play(local, 1, rounds=1, out=tmp_path, **options)
    resumed = play(local, 1, out=tmp_path, **options)
    for other in (several, resumed):
        assert outcome(other)[0] == outcome(alone)[0] and figures(other) == figures(alone)
    said = [note for note in alone.notes if note.startswith("training changed")]
    assert said == [note for note in several.notes if note.startswith("training changed")]
    assert [note.split()[2] for note in said] == ["calls", "seen", "settings"]


class Slotted:
    __slots__ = ("count",)

    def __init__(self):
        self.count = 0


class Refusing(dict):
    def update(self, *args, **named):
        raise TypeError("no")

    clear = __setitem__ = update


class Held(nn.Linear):
    """A layer with attributes of many kinds."""

    def __init__(self):
        super().__init__(2, 2)
        self.number, self.text, self.nothing, self.kind = 1.5, "a", None, nn.ReLU
        self.names, self.table, self.few, self.last = [1, [2]], {"a": {"b": 1}}, {1, 2}, deque([1], maxlen=3)
        self.few_tensors, self.refusing = [torch.ones(2)], Refusing(a=1)
        self.fixed = np.arange(3.0)
        self.fixed.setflags(write=False)
        self.array, self.slots, self.hidden = np.arange(3.0), Slotted(), [nn.Dropout(0.1)]
        self.tracker, self.inplace_number = Settings(), 0
        self.register_forward_hook(partial(self.note, [1]))

    def note(self, extra, module, args, output):
        self.tracker.scale.extend(extra)

    def shown(self):
        """All values, as text."""
        names = (
            "number",
            "text",
            "nothing",
            "kind",
            "names",
            "table",
            "few",
            "last",
            "array",
            "few_tensors",
            "refusing",
        )
        rest = (
            self.slots.count,
            self.refusing,
            self.hidden[0].p,
            self.tracker.scale,
            list(self._forward_hooks),
            type(self).__name__,
        )
        return repr([*(getattr(self, name) for name in names), *rest, sorted(vars(self))])


CHANGES = {
    "number": lambda m: setattr(m, "number", 2.5),
    "text": lambda m: setattr(m, "text", b"a"),
    "nothing": lambda m: setattr(m, "nothing", 1),
    "kind": lambda m: setattr(m, "kind", nn.Tanh),
    "names": lambda m: m.names[1].append(3),
    "table": lambda m: m.table["a"].update(c=2),
    "few": lambda m: m.few.add(3),
    "last": lambda m: m.last.append(2),
    "array": lambda m: m.array.__setitem__(1, 9.0),
    "tensor": lambda m: m.few_tensors[0].add_(1),
    "larger": lambda m: setattr(m.few_tensors[0], "data", torch.ones(5)),
    "refusing": lambda m: dict.update(m.refusing, b=1),
    "slots": lambda m: setattr(m.slots, "count", 1),
    "hidden": lambda m: setattr(m.hidden[0], "p", 0.9),
    "tracker": lambda m: m(torch.ones(1, 2)),
    "hooks": lambda m: m._forward_hooks.clear(),
    "gone": lambda m: delattr(m, "inplace_number"),
    "new": lambda m: setattr(m, "new", 1),
    "class": lambda m: setattr(m, "__class__", nn.Linear),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_kind_of_attribute_is_put_back_where_code_of_others_ran(name):
    module = Held()
    model = FlatModel(module)
    snapshot, before, shown = ModuleSnapshot(model), vars(module).copy(), Held.shown
    first = shown(module)
    model.foreign = True
    snapshot.restore()
    assert shown(module) == first
    for _ in range(2):
        CHANGES[name](module)
        assert shown(module) != first
        model.foreign = True
        snapshot.look()
        snapshot.restore()
        assert shown(module) == first
    assert all(vars(module)[key] is x for key, x in before.items() if key != "slots")


def test_an_equal_value_and_a_cache_are_no_change_to_speak_of():
    module = Held()
    model = FlatModel(module)
    snapshot = ModuleSnapshot(model)
    module.number, module.names, module.nothing, module.cache = float("1.5"), [1, [2]], "made", {}
    model.foreign = True
    assert snapshot.look() == []
    module.names.append(3)
    assert snapshot.look() == ["names"]


def test_the_numbers_of_the_model_stay_where_its_layers_are_put_back():
    model = FlatModel(sequential())
    snapshot = ModuleSnapshot(model)
    first = model.module[0]
    model.module[0] = nn.Linear(6, 5)
    model.attach()
    model.whole.fill_(0.25)
    model.foreign = True
    snapshot.restore()
    assert model.module[0] is first and all(bool((x == 0.25).all()) for x in model.module.parameters())


@pytest.mark.parametrize("loss", [None, lambda output, y: cross_entropy(output, y)], ids=["known", "somebody's"])
def test_nobody_looks_where_known_code_alone_runs(loss):
    task = Task(nn.Linear(6, 3), *CLIENTS[0], parts=[np.arange(12)], local=fb.LocalSGD(lr=0.1), loss=loss)
    model = FlatModel(task.model)
    train_locally(task, model, 0, 1, fb.Key(0))
    assert model.foreign == (loss is not None)
