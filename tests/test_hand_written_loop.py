"""Laws of the hand-written loop: with the same keys, the frames and the model are those of the simulation."""

import copy
from dataclasses import replace

import pytest
from torch import nn

from digits_task import KEY, evidence, federation, filled, kept, mlp, model_bytes, task
from fewbits.errors import DesyncError, LocalError, WireError
from fewbits.federated import Client, Server
from fewbits.links import StateStore
from fewbits.links.bundle import lone_ack, unpack
from fewbits.methods import named
from fewbits.methods.downlink import downlink
from fewbits.wire import Frame

CLIENTS, PER_ROUND, ROUNDS = 6, 3, 6
METHODS = [
    "dense",
    "lbgm+topk@fraction=0.1,threshold=0.5",
    "predict",
    "intrinsic@dim=64",
    "intrinsic@dim=64,mode=time-varying,epoch=2",
    "intrinsic@dim=32,mode=k-subspace,k=3,epoch=2",
    "fedpara+topk@fraction=0.1",
    "pfedpara",
    "fedper",
    "scaffold",
    "feddyn",
    "fedprox",
    "dp",
    "dp@share=central",
    "masked",
    "masked+intrinsic@dim=64",
    "dp+masked+intrinsic@dim=64,share=central",
]
LOSSY_DOWN = [
    "dense/delta8",
    "lbgm+topk@threshold=0.5/sparse",
    "topk@fraction=0.1/own8",
    "pfedpara/delta8",
    "scaffold/delta8",
]
ALL = METHODS + LOSSY_DOWN


def method_of(text):
    """`METHOD` or `METHOD/DOWNLINK`."""
    text, _, down = text.partition("/")
    found = named(text)
    return replace(found, down=downlink(down)) if down else found


def nobody(number, client):
    return False


def lost(number, client):
    return (number + client) % 3 == 0


class Loop:
    """A server and its clients in a loop by hand, with the keys that the simulation derives."""

    def __init__(self, method, store=None, model=mlp):
        self.task, self.method = task(CLIENTS, model=model), method.for_round_size(PER_ROUND)
        start = copy.deepcopy(self.task.model)
        self.new_client = lambda c: Client(copy.deepcopy(start), self.method, KEY.fold("client", c), c, KEY)
        total = float(sum(self.method.weight(len(part)) for part in self.task.parts))
        self.new_server = lambda: Server(
            copy.deepcopy(start), self.method, KEY.fold("server"), store, total_weight=total, common=KEY
        )
        self.server = self.new_server()
        self.clients = [self.new_client(c) for c in range(CLIENTS)]
        self.sent = {}  # (round, client) -> (frames down, frame up)

    def play(self, rounds, absent=nobody, fault=lambda round, client, place: None):
        """`fault` is called before the bundle, after it, and after the reply; True: what was on the way is lost."""
        for _ in range(rounds):
            number, chosen = self.server.round + 1, self.server.sample(CLIENTS, PER_ROUND)
            chosen = chosen if self.method.masking is None or len(chosen) > 1 else []  # one hides nothing
            self.agree(chosen)
            for c in chosen:
                if absent(number, c):
                    continue
                fault(number, c, "before")
                bundle = self.server.bundle(c)
                if fault(number, c, "bundle"):
                    continue
                self.clients[c].receive(bundle)
                fault(number, c, "received")
                frame = self.train(c, number, chosen)
                if fault(number, c, "reply"):
                    continue
                self.sent[number, c] = ([] if lone_ack(bundle) is not None else unpack(bundle), frame)
                assert self.server.accept(c, frame, len(self.task.parts[c])) is not None, self.server.reasons
            self.reveal()
            self.server.step()
        return self

    def agree(self, chosen):
        """Keys and shares of the round's secure sum; nothing when too few are there."""
        if self.method.masking is None or not chosen:
            return
        secure = self.server.secure
        for c in chosen:
            self.clients[c].receive(self.server.bundle(c))
            secure.advertised(c, self.clients[c].secure.advertise())
        for c in chosen:
            secure.shared(c, self.clients[c].secure.share(secure.roster()))
        for c in chosen:
            self.clients[c].secure.open(secure.delivery(c))

    def reveal(self):
        """Shares of the round's secrets, when enough clients arrived."""
        if self.method.masking is None:
            return
        secure = self.server.secure
        try:
            survivors = secure.survivors()
        except WireError:
            return
        for c in secure.arrived:
            secure.revealed(c, self.clients[c].secure.reveal(survivors))

    def train(self, c, number, chosen):
        client, data, local = self.clients[c], self.task, self.task.local
        key = KEY.fold("round", number, "client", c)
        report = local.train(client.flat, data.x, data.y, data.parts[c], key, correct=client.correction)
        return client.reply(report.steps, local.lr, clients=tuple(chosen))

    def swap(self, c):
        """Client c ends, and another process goes on from its bytes."""
        dumped = self.clients[c].dump()
        self.clients[c] = self.new_client(c)
        self.clients[c].load(dumped)
        assert self.clients[c].dump() == dumped

    def outcome(self):
        return model_bytes(self.server.model), self.sent


@pytest.fixture(scope="module")
def undisturbed():
    found = {}

    def play(text, rounds=ROUNDS, absent=nobody):
        if (text, rounds) not in found:
            found[text, rounds] = Loop(method_of(text)).play(rounds, absent).outcome()
        return found[text, rounds]

    return play


@pytest.mark.parametrize("text", ALL)
def test_frames_and_model_are_those_of_the_simulation_bit_for_bit(text, undisturbed, tmp_path):
    run = federation(method_of(text), tmp_path, ROUNDS, task=task(CLIENTS), per_round=PER_ROUND)
    travelled = {}

    def tap(number, client, direction, message):
        travelled.setdefault((number, client), {})[direction] = message

    run.tap = tap
    run.run()
    loop = Loop(method_of(text)).play(ROUNDS)
    model, sent = loop.outcome()
    assert model == evidence(run)[0]
    assert sent.keys() == {place for place, messages in travelled.items() if "up" in messages}
    for place, (down, up) in sent.items():
        assert up == travelled[place]["up"], place
        bundle = travelled[place]["down"]
        # Acknowledgements differ: the simulation learns of a frame's arrival at once.
        assert without_ack(down) == without_ack(unpack(bundle) if bundle[0] else []), place
    for c, state in kept(tmp_path).items():
        assert loop.clients[c]._core.dump()["state"] == state, "what the client keeps to itself"
    assert (model, sent) == undisturbed(text)


def counting():
    """Running statistics that are plain means, so that the number of batches so far matters."""
    norm = nn.BatchNorm1d(12, momentum=None)
    return filled(nn.Sequential(nn.Linear(64, 12), norm, nn.ReLU(), nn.Linear(12, 10)))


def test_counters_of_batches_begin_anew_with_each_bundle_as_in_the_simulation():
    run = federation(named("dense"), rounds=3, task=task(CLIENTS, model=counting), per_round=PER_ROUND)
    run.run()
    loop = Loop(named("dense"), model=counting).play(3)
    assert loop.outcome()[0] == model_bytes(run.task.model)


def without_ack(frames):
    return [bytes(Frame.parse(frame).acknowledging(0)) for frame in frames]


@pytest.mark.parametrize("text", ALL)
def test_clients_that_move_to_another_process_at_any_moment_change_nothing(text, undisturbed):
    """Before a bundle, after it, after a reply that arrived, and after one that is on its way."""
    loop = Loop(method_of(text))

    def move(number, client, place):
        if place in ("before", "reply") or (number + client) % 2:
            loop.swap(client)
        return False

    assert loop.play(ROUNDS, fault=move).outcome() == undisturbed(text)


@pytest.mark.parametrize("place", ["bundle", "reply"])
@pytest.mark.parametrize("text", [text for text in ALL if "masked" not in text])
def test_what_is_lost_costs_its_client_that_round_and_nothing_else(text, place, undisturbed):
    """As if the client had not been asked, whether its process ends after that, as every other one does, or not."""

    loop = Loop(method_of(text))

    def fault(number, client, where):
        if where == "before" and (number + client) % 2:
            loop.swap(client)
        return where == place and lost(number, client)

    model, sent = loop.play(ROUNDS + 3, fault=fault).outcome()
    calm_model, calm_sent = undisturbed(text, ROUNDS + 3, lost)
    assert model == calm_model
    assert {at: up for at, (_, up) in sent.items()} == {at: up for at, (_, up) in calm_sent.items()}


@pytest.mark.parametrize("text", [text for text in ALL if "masked" in text])
def test_lost_replies_cost_their_clients_a_masked_round_until_too_few_are_left(text):
    loop = Loop(method_of(text.replace("dp+", "").replace(",share=central", ""))).play(1)
    before = model_bytes(loop.server.model)
    loop.play(1, fault=lambda number, client, place: place == "reply" and client in loop.server.secure.members[:1])
    assert not loop.server.void and model_bytes(loop.server.model) != before
    before = model_bytes(loop.server.model)
    loop.play(1, fault=lambda number, client, place: place == "reply" and client in loop.server.secure.members[:2])
    assert loop.server.void == "1 of 3 clients have sent their words, and 2 are needed"
    assert model_bytes(loop.server.model) == before
    loop.play(1)
    assert not loop.server.void and model_bytes(loop.server.model) != before


# Without a memory at any end, a server that was restored repeats its rounds to the same bits.
MEMORYLESS = ["dense", "intrinsic@dim=64", "fedprox", "dense/delta8"]


@pytest.mark.parametrize("stored", [False, True], ids=["in memory", "stored"])
@pytest.mark.parametrize("text", ALL)
def test_a_server_restored_from_an_older_checkpoint_goes_on_with_clients_of_the_future(text, stored, tmp_path):
    store = StateStore(tmp_path) if stored else None
    loop = Loop(method_of(text), store).play(2)
    if store is not None:
        store.commit()
    checkpoint = loop.server.round, loop.server.dump(), dict(loop.server.versions)
    loop.play(ROUNDS - 2)
    expected = model_bytes(loop.server.model)
    loop.server = loop.new_server()
    loop.server.load(*checkpoint)
    if store is not None:
        store.forget_after(2)
    ahead = next(c for c in loop.server.sample(CLIENTS, PER_ROUND) if loop.clients[c].down.version > 3)
    with pytest.raises(DesyncError):
        loop.clients[ahead].receive(loop.server.bundle(ahead))
    for c in range(CLIENTS):
        loop.clients[c].reset_downlink()
        loop.server.reset_downlink(c)
    if "masked" in text:  # the masks of these versions have hidden other messages
        with pytest.raises(LocalError, match="receive the bundle of a later version"):
            loop.play(ROUNDS - 2)
        return
    loop.play(ROUNDS - 2)  # asserts that every frame is accepted
    if text in MEMORYLESS:
        assert model_bytes(loop.server.model) == expected
    if store is not None:
        store.close()


def test_a_reply_asks_for_what_its_method_needs():
    for text, given, missing in (
        ("scaffold", {}, "steps taken and their lr"),
        ("masked", {"steps": 1, "lr": 0.1}, "end of the secure sum"),
        ("dp@share=central", {"steps": 1, "lr": 0.1}, "numbers"),
    ):
        loop = Loop(method_of(text))
        with pytest.raises(LocalError, match="receive a bundle"):
            loop.clients[0].reply(1, 0.1)
        loop.clients[0].receive(loop.server.bundle(0))
        with pytest.raises(LocalError, match=missing):
            loop.clients[0].reply(**given)


def test_one_version_hides_one_message_under_noise_or_masks():
    for text in ("dp", "masked"):
        loop = Loop(method_of(text))
        loop.server.sample(3, 3)
        loop.clients[0].receive(loop.server.bundle(0))
        loop.agree([0, 1, 2])
        loop.train(0, 1, [0, 1, 2])
        with pytest.raises(LocalError, match="one message for each version"):
            loop.clients[0].reply(1, 0.1, clients=(0, 1, 2))
