"""Laws of runs whose clients train s itself: theta = theta0 + A s, and only s travels, by any codec both ways."""

import copy

import pytest
import torch
from torch import nn

import fewbits as fb
from digits_task import KEY, LOCAL, federation, filled, mlp
from fewbits.codecs import Basis
from fewbits.engines.simulation.worker import Worker
from fewbits.errors import LocalError
from fewbits.factor import merge
from fewbits.factor.coordinates import Coordinates, coordinates, enter_subspace, leave_subspace
from fewbits.factor.derived import duplicate
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.intrinsic_space import IntrinsicSpace
from fewbits.links.ledger import read
from fewbits.methods import build, dense, intrinsic
from fewbits.rng import Key
from fewbits.wire.frame import HEADER_BYTES

SIZE = sum(p.numel() for p in mlp().parameters())
MODES = ["static", "time-varying", "k-subspace", "growing"]


def vector(module: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach()


def trained(method, **more) -> torch.Tensor:
    return vector(merge(federation(method, **more).run().model))


def sparse(size: int, dim: int = 16) -> list[Basis]:
    return [Basis(size, dim, Key(7), "sparse")]


def test_a_square_orthonormal_basis_trains_as_fedavg():
    whole = vector(federation(dense(momentum=0.5), rounds=4).run().model)
    square = intrinsic(dense(momentum=0.5), dim=SIZE, basis="hadamard", scale="orthonormal")
    torch.testing.assert_close(trained(square, rounds=4), whole, atol=2e-5, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_a_run_is_gradient_steps_on_s_by_hand(mode):
    """s_k -= lr A_k^T g in every local step; the server takes the mean of what each vector of s moved by."""
    space = IntrinsicSpace(48, mode, k=3, epoch=2, basis="sparse", scale="unbiased")
    run = federation(intrinsic(dim=48, mode=mode, k=3, epoch=2), rounds=5, per_round=4)
    start, own = run.server.model, run.task
    theta0 = coordinates(start).start.double()
    columns = [
        torch.stack([basis.expand(row) for row in torch.eye(48)]).T.double() for basis in space.bases(len(theta0))
    ]
    s = torch.zeros(len(columns), 48, dtype=torch.float64)
    local = FlatModel(mlp())

    def theta(of):
        return theta0 + sum(a @ x for a, x in zip(columns, of, strict=True))

    for number in range(1, 6):
        clients = run.server.key.fold("round", number - 1, "sample").subset(4, 6)
        weight, sums = 0, torch.zeros_like(s)
        for client in map(int, clients):
            which, mine = space.trained(number, client), s.clone()
            rows, key = own.parts[client], KEY.fold("round", number, "client", client)
            for batch in LOCAL.batches(rows, key):
                local.params.copy_(theta(mine))
                fb.learn.local.backward(local, own.x, own.y, batch)
                for k in which:
                    mine[k] -= LOCAL.lr * (columns[k].T @ local.grads.double())
            sums += len(rows) * (s - mine)
            weight += len(rows)
        s = s - sums / weight
    found = vector(merge(run.run().model)).double()
    torch.testing.assert_close(found, theta(s), atol=2e-5, rtol=0)
    assert float((found - theta0).norm()) > 0.01


@pytest.mark.parametrize(("mode", "count"), [("static", 1), ("time-varying", 1), ("k-subspace", 1), ("growing", 3)])
def test_only_the_vectors_that_train_travel_up(mode, count, tmp_path):
    federation(intrinsic(dim=32, mode=mode, k=3, epoch=1), tmp_path, rounds=4).run()
    up = [entry.frame_bytes for entry in read(tmp_path / "ledger.jsonl") if entry.direction == "up"]
    assert max(up) == HEADER_BYTES + 4 * 32 * count + (mode != "static")  # a byte says which


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("down", ["dense", "fp16", "delta8", "delta4", "sparse", "changes", "own8", "own4", "own1"])
def test_every_downlink_works_for_s_and_all_numbers_of_processes_send_the_same(mode, down):
    method = build("intrinsic+deadzone", {"dim": "48", "mode": mode, "k": "2", "epoch": "2", "down": down})
    one, two = (federation(method, rounds=4, per_round=3, processes=n) for n in (1, 2))
    assert torch.equal(vector(one.run().model), vector(two.run().model))
    assert one.ledger.frame_bytes == two.ledger.frame_bytes
    assert float(vector(one.task.model).norm()) > 0


@pytest.mark.parametrize("mode", MODES)
def test_a_process_that_played_no_client_scores_the_public_model(mode, tmp_path):
    """Where clients have ends of their own, one may not have been lent yet when the first evaluation comes."""
    run = federation(build("intrinsic", {"dim": "48", "mode": mode, "k": "2", "epoch": "2", "down": "own4"}))
    bundle = run.server.broadcast.bundle(None)
    played, idle = (Worker(run.task, run.method, KEY, tmp_path, "cpu", name) for name in "01")
    played.set_bundles({3: run.server.bundle(3)})
    played.expect([3])
    for worker in (played, idle):
        worker.receive(bundle)
    assert [reply.trouble for reply, _ in played.play(1, iter([3]))] == [""]
    assert played.evaluate(0) == idle.evaluate(0)
    for worker in (played, idle):
        worker.close()


@pytest.mark.parametrize("mode", ["time-varying", "k-subspace", "growing"])
def test_nothing_trains_on_a_version_that_never_was(mode):
    with pytest.raises(LocalError, match="version must be a whole number, 1 or more; got 0"):
        IntrinsicSpace(8, mode).trained(0, client=3)


def test_a_client_that_builds_another_model_is_told_or_gets_theta0():
    """theta0 travels at first contact unless the client can make it; s alone afterwards."""
    server = fb.Server(filled(mlp()), "intrinsic@dim=64", Key(0))
    client = fb.Client(mlp(), "intrinsic@dim=64", Key(1))
    first = server.bundle(0)
    assert len(first) > 4 * SIZE
    client.receive(first)
    assert torch.equal(coordinates(client.model).start, coordinates(server.model).start)
    server.accept(0, client.reply(), 1)
    server.step()
    assert len(server.bundle(0)) < 4 * 64 + 40
    client.receive(server.bundle(0))
    x = torch.randn(3, 64)
    assert torch.equal(client.model(x), server.model(x))


@pytest.mark.parametrize("other", ["seed=8", "basis=hadamard", "scale=orthonormal", "mode=time-varying,k=1", "dim=32"])
def test_ends_of_other_matrices_do_not_understand_each_other(other):
    server = fb.Server(mlp(), "intrinsic@dim=64,mode=static", Key(0))
    client = fb.Client(mlp(), f"intrinsic@{'dim=64,' if 'dim' not in other else ''}{other}", Key(1))
    with pytest.raises(fb.DesyncError, match=r"begin with theta0 of intrinsic_space.*the server has another subspace"):
        client.receive(server.bundle(0))


def test_any_optimiser_of_torch_trains_coordinates():
    server, client = (make(mlp(), "intrinsic@dim=64", Key(0)) for make in (fb.Server, fb.Client))
    client.receive(server.bundle(0))
    ((name, s),) = client.model.named_parameters()
    assert (name, s.shape) == ("coordinates", (64,))
    optimizer = torch.optim.AdamW(client.model.parameters(), 0.01)
    x, y = torch.randn(20, 64), torch.arange(20) % 10
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(client.model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    server.accept(0, client.reply(), 20)
    server.step()
    torch.testing.assert_close(server.model.coordinates.detach(), s.detach(), atol=1e-6, rtol=1e-5)


def test_a_dump_of_a_client_keeps_theta0():
    server, client = (make(mlp(), "intrinsic+topk@dim=64", Key(0)) for make in (fb.Server, fb.Client))
    client.receive(server.bundle(0))
    server.accept(0, client.reply(), 1)
    server.step()
    again = fb.Client(filled(mlp()), "intrinsic+topk@dim=64", Key(0))
    again.load(client.dump())
    again.receive(server.bundle(0))
    x = torch.randn(3, 64)
    assert torch.equal(again.model(x), server.model(x))


def test_a_call_gives_the_plain_model_back_and_goes_on_in_its_folder(tmp_path):
    x, y = torch.randn(60, 16), torch.randint(0, 4, (60,))
    clients = [(x[i::3], y[i::3]) for i in range(3)]

    def model():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))

    method, names = "intrinsic+deadzone@dim=64,down=own1", list(model().state_dict())
    whole = fb.federate(model(), clients, method, rounds=5).model
    part = model()
    fb.federate(part, clients, method, rounds=2, out=tmp_path / "run")
    assert list(part.state_dict()) == names and coordinates(part) is None
    fb.federate(part, clients, method, rounds=5, out=tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), part.state_dict().values(), strict=True))
    with pytest.raises(LocalError, match="another run"):
        fb.federate(filled(model()), clients, method, rounds=6, out=tmp_path / "run")


class Tied(nn.Module):
    """An LSTM between an embedding and a head of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.head = nn.Embedding(20, 16), nn.LSTM(16, 16, 2), nn.Linear(16, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.lstm(self.embed(x))[0])


def spectral() -> nn.Module:
    norm = torch.nn.utils.parametrizations.spectral_norm
    return nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), norm(nn.Linear(32, 4)))


def attention() -> nn.Module:
    return nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)


def half_frozen() -> nn.Module:
    found = mlp()
    next(found.parameters()).requires_grad_(False)
    return found


MODULES = {
    "tied": (Tied, lambda: torch.randint(0, 20, (5, 7))),
    "normed": (spectral, lambda: torch.randn(8, 16)),
    "attention": (attention, lambda: torch.randn(2, 5, 16)),
    "frozen": (half_frozen, lambda: torch.randn(4, 64)),
    "factored": (lambda: fb.fedpara(mlp()), lambda: torch.randn(4, 64)),
}


@pytest.mark.parametrize("kind", MODULES)
def test_any_module_computes_at_theta0_plus_a_s_and_has_the_gradient_of_it(kind):
    make, draw = MODULES[kind]
    plain, x = make(), draw()
    inside = enter_subspace(copy.deepcopy(plain), sparse)
    names = list(plain.state_dict())
    plain.eval(), inside.eval()
    torch.testing.assert_close(inside(x), plain(x), msg="s = 0")
    with torch.no_grad():
        inside.coordinates.copy_(torch.randn(16) * 0.1)
    found = leave_subspace(duplicate(inside))
    assert list(found.state_dict()) == names
    inside(x).square().sum().backward()
    found(x).square().sum().backward()
    g = torch.cat([p.grad.reshape(-1) for p in found.parameters() if p.requires_grad])
    torch.testing.assert_close(inside(x), found(x))
    torch.testing.assert_close(inside.coordinates.grad, sparse(len(g))[0].project(g), rtol=1e-4, atol=1e-4)


def test_a_copy_of_a_model_inside_trains_by_itself():
    first = enter_subspace(mlp(), sparse)
    second, x = copy.deepcopy(first), torch.randn(2, 64)
    with torch.no_grad():
        second.coordinates.add_(1.0)
    assert torch.equal(first.coordinates, torch.zeros(16)) and not torch.equal(first(x), second(x))
    assert coordinates(second).module is second and coordinates(second).start is coordinates(first).start


def test_another_method_takes_the_model_out_of_its_subspace():
    model = mlp()
    build("intrinsic", {"dim": "16"}).prepare(model, KEY)
    build("intrinsic", {"dim": "32"}).prepare(model, KEY)
    assert len(model.coordinates) == 32
    build("topk").prepare(model, KEY)
    assert coordinates(model) is None and sum(p.numel() for p in model.parameters()) == SIZE


def scripted() -> nn.Module:
    with pytest.warns(DeprecationWarning):
        return torch.jit.script(mlp())


def named_so() -> nn.Module:
    found = mlp()
    found.coordinates = 3
    return found


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: federation(intrinsic(dim=SIZE + 1)), str(SIZE)),
        (lambda: fb.Server(scripted(), "intrinsic@dim=8", KEY), "TorchScript"),
        (lambda: fb.Server(named_so(), "intrinsic@dim=8", KEY), "an attribute coordinates of its own"),
        (lambda: fb.Server(nn.ReLU(), "intrinsic@dim=8", KEY), "no trainable parameter"),
        (lambda: build("fedpara+intrinsic"), "fedpara"),
    ],
)
def test_bad_input_gets_a_sentence(make, said):
    with pytest.raises(LocalError, match=said):
        make()


def test_what_stays_with_a_client_is_not_in_the_subspace():
    run = federation(build("intrinsic+fedper", {"dim": "32"}), rounds=2)
    inside = coordinates(run.server.model)
    assert isinstance(inside, Coordinates)
    assert len(inside.start) == SIZE - sum(p.numel() for p in list(mlp().parameters())[-2:])
    assert {name for name, _ in run.server.model.named_parameters()} == {"coordinates", "2.weight", "2.bias"}
