"""Dense outer steps in slices: the bits of frames to all, and the bytes of a ring."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import fewbits as fb
from fewbits.distributed import OuterStep, Replicas, Streaming
from fewbits.engines.distributed import ProcessInfo
from fewbits.replicas import Replica, Terms
from fewbits.replicas.sliced_replica import SlicedReplica
from fewbits.replicas.slices import slices_of
from fewbits.spec import Spec, TreeSpec
from nodes import processes, run_all
from torch_ranks import digest, inner_step, join, net

TO_ALL = fb.route([("*", fb.Raw())])  # the same values, as frames to all ranks


@pytest.fixture(autouse=True)
def loopback(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


def after(method, size: int, build=net, steps: int = 4, **options) -> tuple[list[str], Replicas]:
    models = [build() for _ in range(size)]
    replicas = Replicas(models, method, every=2, optimizer=fb.ServerSGD(lr=0.7, momentum=0.9), **options)
    for step in range(steps):
        for rank, model in enumerate(models):
            inner_step(model, rank, step)
        replicas.step()
    return [digest(model) for model in models], replicas


@pytest.mark.parametrize("sizes", [[3, 4, 5], [1], [2, 0, 1]])
@pytest.mark.parametrize("count", [1, 3, 4, 20])
def test_slices_are_the_vector_in_parts_of_about_equal_length(sizes, count):
    tree = TreeSpec(tuple((str(i), Spec((n,))) for i, n in enumerate(sizes)))
    parts = slices_of(tree, count)
    assert len(parts) == count
    assert max(part.numel for part in parts) - min(part.numel for part in parts) <= 1
    laid = [name for part in parts for name, leaf in part for _ in range(leaf.numel)]
    assert laid == [name for name, leaf in tree for _ in range(leaf.numel)]


@pytest.mark.parametrize("size", [3, 4])
@pytest.mark.parametrize("streaming", [Streaming(), Streaming(2)], ids=str)
def test_slices_give_the_bits_of_frames_to_all_for_the_bytes_of_a_ring(size, streaming):
    digests, replicas = after("dense", size, streaming=streaming)
    expected, to_all = after(TO_ALL, size, streaming=streaming)
    assert digests == expected
    ledger, payload = replicas.ledgers[1], to_all.ledgers[1].payload_bytes["up"] // (size - 1)
    assert abs(ledger.payload_bytes["up"] - 2 * (size - 1) / size * payload) < 0.01 * payload
    frames = 2 * (size - 1) * replicas._replicas[0].exchanges
    assert ledger.messages["up"] == frames and ledger.frame_bytes["up"] == ledger.payload_bytes["up"] + 16 * frames


@pytest.mark.parametrize("build", [lambda: nn.Linear(12, 4).double(), lambda: nn.Linear(12, 1)], ids=["wide", "few"])
def test_double_precision_and_fewer_numbers_than_ranks(build):
    def models(size: int) -> list[nn.Module]:
        made = build()
        torch.nn.init.zeros_(made.weight)
        torch.nn.init.zeros_(made.bias)
        if made.weight.numel() == 12:
            made.bias.requires_grad_(False)
            made.weight = nn.Parameter(made.weight[:, :2].detach().clone())
        return [copy.deepcopy(made) for _ in range(size)]

    found = []
    for method in ("dense", TO_ALL):
        ranks = models(5)
        replicas = Replicas(ranks, method, every=1, optimizer=fb.ServerSGD())
        for rank, model in enumerate(ranks):
            model.weight.data.add_(0.1 * rank)
        replicas.step()
        found.append([digest(model) for model in ranks])
    assert found[0] == found[1] and len(set(found[0])) == 1


def test_only_dense_frames_of_three_ranks_and_more_travel_in_slices():
    def sliced(method, size: int, **options) -> bool:
        return Terms.of(method, None, 4, **options).sliced(size)

    assert sliced("dense", 3) and sliced(fb.Raw(), 4, streaming=Streaming(2))
    assert not sliced("dense", 2)
    assert not sliced("fedpaq@bits=4", 3)
    assert not sliced("dense", 3, streaming=Streaming(delay=1))


def test_processes_send_slices_as_one_process_does_and_repair_and_resume():
    def act(process: ProcessInfo) -> list:
        join(process)
        model, seen = net(seed=process.rank), ""
        outer = OuterStep(model, "dense", every=2, optimizer=fb.ServerSGD(lr=0.7, momentum=0.9), timeout=15.0)
        for step in range(8):
            inner_step(model, process.rank, step)
            weight = model[0].weight.data  # type: ignore[index]
            kept = weight.clone()
            if step == 3 and process.rank == 1:
                weight[0, 0] = torch.nan
            try:
                outer.step()
            except fb.FewbitsError as error:
                seen = f"{type(error).__name__}: {error}"
                weight.copy_(kept)
                outer.step()
            if step == 5:
                state = outer.state_dict()
                outer = OuterStep(model, "dense", every=2, optimizer=fb.ServerSGD(lr=0.7, momentum=0.9), timeout=15.0)
                outer.load_state_dict(state)
        return [digest(model), outer.sent_bytes, outer.received_bytes, seen]

    digests, replicas = after("dense", 3, steps=8)
    outcomes = run_all(act, processes(3))
    assert [outcome.code for outcome in outcomes] == [0] * 3, outcomes
    for rank, outcome in enumerate(outcomes):
        ledger = replicas.ledgers[rank]
        assert outcome.value[:3] == [digests[rank], ledger.frame_bytes["up"], ledger.frame_bytes["down"]]
        begin = "LocalError: " if rank == 1 else "PeerLostError: rank 1 refused: "
        assert outcome.value[3].startswith(f"{begin}Sender.send: 0.weight has 1 NaN")


@pytest.mark.parametrize("first", ["in slices", "to all ranks"])
def test_a_state_of_frames_on_another_path_is_refused_with_both(first):
    """A run with Elastic sends dense frames to all, whatever the number of ranks."""
    terms = Terms.of("dense", None, 1)
    sliced, to_all = SlicedReplica(net(), terms, 0, 3), Replica(net(), terms, 0, 3)
    ours, other = (sliced, to_all) if first == "in slices" else (to_all, sliced)
    with pytest.raises(fb.LocalError, match=f"the path of frames is {first}; that of the state is {other.path}"):
        ours.read_state(other.state_dict())


def test_a_damaged_part_or_mean_names_its_rank_and_moves_nothing():
    _, replicas = after("dense", 3, build=lambda: nn.Sequential(nn.Linear(12, 4)))
    ranks = replicas._replicas
    before = repr(replicas.state_dicts())
    parts = [replica.parts(0) for replica in ranks]  # type: ignore[attr-defined]
    wrong = bytearray(parts[2][0])
    wrong[30] ^= 1
    with pytest.raises(fb.WireError, match="the frame of rank 2: checksum"):
        ranks[0].message_of(0, [parts[0][0], parts[1][0], wrong])  # type: ignore[attr-defined]
    messages = [replica.message_of(0, [part[rank] for part in parts]) for rank, replica in enumerate(ranks)]  # type: ignore[attr-defined]
    wrong = bytearray(messages[1])
    wrong[20] ^= 1
    with pytest.raises(fb.WireError, match="the frame of rank 1: checksum"):
        ranks[0].outer[0].prepare([messages[0], bytes(wrong), messages[2]])()
    for replica in ranks:
        replica.rollback(0)
    assert repr(replicas.state_dicts()) == before
