"""Runs under masks: the server reads the sum of what clients sent, to a step, and no message by itself."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import nn

from digits_task import evidence, federation, filled, mlp, task
from fewbits.cli.frame_recorder import FrameRecorder
from fewbits.codecs import Modular, chain
from fewbits.engines.simulation.secure_worker import SecureWorker
from fewbits.errors import LocalError
from fewbits.federated import Server
from fewbits.federated.client_core import ClientCore
from fewbits.learn import LocalSGD
from fewbits.links.ledger import read
from fewbits.methods import build
from fewbits.privacy.pairwise_masking import BUFFER, MASKED, MaskedTotal, PairwiseMasking
from fewbits.privacy.secure_sum import ClientEnd
from fewbits.privacy.secure_sum.messages import Kind, client_bytes, message_bytes
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.wire import Frame

SIZE = sum(p.numel() for p in mlp().parameters())


def alike(clients=6, **more):
    """A task whose clients have as many examples each, so that they weigh alike without masks."""
    own = task(clients, **more)
    object.__setattr__(own, "parts", [part[:16] for part in own.parts])
    return own


def parameters(module):
    return nn.utils.parameters_to_vector(module.parameters()).detach().clone()


@pytest.mark.parametrize("name", ["dense", "intrinsic", "fedpara", "fedprox", "fedadam"])
def test_a_masked_run_is_the_plain_one_to_a_step(name):
    settings = {"dim": "128"} if name == "intrinsic" else {}
    plain = federation(build(name, settings), rounds=3, per_round=4, task=alike()).run().model
    run = federation(build(f"masked+{name}", settings | {"bits": "40"}), rounds=3, per_round=4, task=alike())
    torch.testing.assert_close(parameters(run.run().model), parameters(plain), atol=2e-5, rtol=1e-4)
    assert run.notes == [] and run.reports[-1].clients == 4


def hidden(monkeypatch):
    """(vector, words) of every client, in order."""
    found, hide = [], PairwiseMasking.hide

    def watched(self, tree, end, private):
        words = hide(self, tree, end, private)
        x = torch.cat([x.reshape(-1) for name, x in tree.items() if not name.startswith(BUFFER)])
        found.append((x, words[MASKED].clone(), self.encoding(len(end.members)).encode(x, private)))
        return words

    monkeypatch.setattr(PairwiseMasking, "hide", watched)
    return found


def test_a_rounds_total_is_the_sum_of_the_unmasked_words_and_no_message_is_one_of_them(monkeypatch):
    found, totals, value = hidden(monkeypatch), [], MaskedTotal.value

    def watched(self):
        totals.append(torch.cat([x.reshape(-1) for x in value(self).values()]))
        return value(self)

    monkeypatch.setattr(MaskedTotal, "value", watched)
    run = federation(build("masked", {"bits": "24"}), rounds=1)
    run.run()
    field = run.method.masking.encoding(6)
    plain = field.decode(np.bitwise_and(sum(words for _, _, words in found), np.uint64(2**24 - 1)), 6)
    assert torch.equal(totals[0], plain.float())
    exact = sum(x.double() for x, _, _ in found)
    assert float((totals[0] - exact).abs().max()) <= field.bound(6)
    for _, masked, words in found:
        counts = np.bincount((masked.numpy() / 2**20).astype(int), minlength=16)
        assert chisquare(counts).pvalue > 1e-4, "a message is uniform"
        assert np.mean(masked.numpy() == words) < 0.01


def test_frames_carry_so_many_bits_for_each_number(tmp_path):
    run = federation(build("masked+intrinsic", {"dim": "100", "bits": "20"}), rounds=1)
    run.run()
    assert run.ledger.frame_bytes["up"] == 6 * (16 + 100 * 20 // 8 + client_bytes(6)[0])


def test_masked_runs_are_the_same_in_any_number_of_processes_and_parts(tmp_path):
    found = []
    for name, parts in {"whole": [4], "parts": [1, 3, 4]}.items():
        for processes, rounds in enumerate(parts, start=1):
            run = federation(build("masked"), tmp_path / name, rounds, per_round=3, processes=processes)
            run.run()
        found.append(evidence(run))
    assert found[0] == found[1]


def test_buffers_are_hidden_too(monkeypatch):
    def normed():
        return filled(nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10)))

    found = hidden(monkeypatch)
    plain = federation(build("dense"), rounds=2, task=alike(model=normed)).run().model
    run = federation(build("masked", {"bits": "40"}), rounds=2, task=alike(model=normed)).run()
    for name, x in plain.state_dict().items():
        torch.testing.assert_close(run.model.state_dict()[name], x, atol=2e-4, rtol=1e-3)
    assert all(len(x) == sum(p.numel() for p in normed().parameters()) for x, _, _ in found)


# who does not arrive


def absent(monkeypatch, round, *clients):
    """These clients' frames are damaged in that round."""
    accept = Server.accept

    def damaged(self, who, frame, weight):
        broken = self.round + 1 == round and who in clients
        return accept(self, who, bytes(frame)[:-1] if broken else frame, weight)

    monkeypatch.setattr(Server, "accept", damaged)


@pytest.mark.parametrize("lost", [(3,), (0, 5)])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_round_in_which_clients_are_missing_is_the_mean_of_the_others(lost, processes, monkeypatch):
    absent(monkeypatch, 2, *lost)
    settings = {"rounds": 3, "processes": processes}
    run = federation(build("masked", {"bits": "40"}), task=alike(), **settings)
    plain = federation(build("dense"), task=alike(), **settings)
    torch.testing.assert_close(parameters(run.run().model), parameters(plain.run().model), atol=2e-5, rtol=1e-4)
    assert [r.clients for r in run.reports] == [6, 6 - len(lost), 6]
    assert run.notes[0].startswith(f"round 2: client {lost[0]} was left out: ")
    assert [r.rejected for r in run.reports] == [0, len(lost), 0]


def test_a_round_in_which_too_many_clients_are_missing_is_void_and_the_next_is_not(monkeypatch):
    absent(monkeypatch, 2, 1, 3, 4)
    run = federation(build("masked"), rounds=3)
    seen = []
    run.run(lambda report: seen.append(parameters(run.task.model)))
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])
    assert [r.clients for r in run.reports] == [6, 0, 6] and [r.rejected for r in run.reports] == [0, 3, 0]
    assert run.notes[0] == "round 2 is void: 3 of 6 clients have sent their words, and 4 are needed"
    whole, words = client_bytes(6)[0], 16 + 4 * SIZE
    reveal = message_bytes(Kind.REVEAL, 6)
    assert run.ledger.frame_bytes["up"] == 6 * (3 * (words + whole) - reveal), "what was sent is counted"


def test_every_message_of_the_secure_sum_is_counted(tmp_path):
    run = federation(build("masked"), tmp_path, rounds=1)
    seen = []
    run.tap = lambda *message: seen.append(message)
    run.run()
    up = sum(len(m) for _, _, way, m in seen if way == "secure up")
    assert up == 6 * client_bytes(6)[0] and up == run.ledger.frame_bytes["up"] - 6 * (16 + 4 * SIZE)
    assert sum(len(m) for _, _, way, m in seen if way == "secure down") == 6 * client_bytes(6)[1]
    assert next(e.stages for e in read(tmp_path / "ledger.jsonl")) == {"secure sum": 8 * 68}


def test_saved_frames_are_frames_alone(tmp_path):
    run = federation(build("masked"), rounds=1)
    run.tap = FrameRecorder(tmp_path, 100)
    run.run()
    assert all(Frame.parse(path.read_bytes()) for path in tmp_path.iterdir()) and len(list(tmp_path.iterdir())) == 12


def test_a_client_that_fails_before_it_shared_costs_its_turn_alone(monkeypatch):
    message = SecureWorker.message

    def damaged(self, step, round, client, common, personal):
        found = message(self, step, round, client, common, personal)
        return found[:-1] if (step, client) in {("advertise", 2), ("share", 4)} else found

    monkeypatch.setattr(SecureWorker, "message", damaged)
    run = federation(build("masked"), rounds=1)
    (report,) = run.run().reports
    assert (report.clients, report.skipped) == (4, 2)
    assert [note.split(" bytes; ")[0] for note in run.notes] == [
        "round 1: client 2 was skipped: a KEYS message of 1 items has 79",
        "round 1: client 4 was skipped: a SHARES message of 4 items has 355",
    ]


def test_clients_whose_updates_are_not_finite_make_their_round_void():
    broken = task(local=LocalSGD(lr=1e30, batch_size=4, epochs=3))
    run = federation(build("masked"), rounds=1, task=broken)
    (report,) = run.run().reports
    assert (report.clients, report.skipped) == (0, 6) and any("is void" in note for note in run.notes)


def test_a_message_under_other_masks_makes_the_round_void(monkeypatch):
    mask = ClientEnd.mask

    def cheating(self, words, encoding):
        masked = mask(self, words, encoding)
        return encoding.add(masked, encoding.stream(len(words), Key(5))) if self.number == 0 else masked

    monkeypatch.setattr(ClientEnd, "mask", cheating)
    run = federation(build("masked"), rounds=1)
    before = parameters(run.task.model)
    (report,) = run.run().reports
    assert report.clients == 0 and "is void" in run.notes[0] and torch.equal(parameters(run.task.model), before)


@pytest.mark.parametrize("name", ["dp+masked", "dp+masked+intrinsic"])
def test_central_noise_goes_under_masks(name, monkeypatch):
    """The noise of all clients is in the sum, and no message can be read."""
    pytest.importorskip("opacus")
    noisy, add_noise = [], ClientCore._noisy

    def watched(self, x, round, asked):
        noisy.append(add_noise(self, x, round, asked).clone())
        return noisy[-1].clone()

    monkeypatch.setattr(ClientCore, "_noisy", watched)
    found = hidden(monkeypatch)
    settings = {"share": "central", "clip": "0.1"} | ({"dim": "64"} if "intrinsic" in name else {})
    run = federation(build(name, settings), rounds=1)
    assert run.run().reports[0].epsilon is not None and len(noisy) == 6
    assert all(torch.equal(x, y) for x, (y, _, _) in zip(noisy, found, strict=True))


def test_masks_need_company():
    with pytest.raises(LocalError, match="two or more; got rounds of 1"):
        federation(build("masked"), per_round=1)


# the parts


def test_words_come_back_as_they_were_up_to_48_bits():
    words = torch.from_numpy(Key(1).below(2**48, 100).astype(np.float64))
    codec, spec = chain(Modular(48)), Spec((100,), "float64")
    message, _ = codec.encode(words, spec, codec.init(spec), codec.memory(spec), None)
    assert torch.equal(codec.decode(message, spec, codec.init(spec))[0], words)
    assert codec.contract(spec).payload_bits == 4800
