"""Lossy differences for one client alone: server and client hold the same bits whatever is lost, late or restarted."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from digits_task import KEY, evidence, federation, mlp, task
from every_codec import TREE, fingerprint, payload_of, restamp
from fewbits import codecs, coders
from fewbits.codecs import Delta, ErrorFeedback, LookBack, Quantize, RandK, Raw, TopK, chain, route
from fewbits.coders import Rans
from fewbits.engines.simulation.worker import Worker
from fewbits.errors import DesyncError, LocalError, WireError
from fewbits.federated import Client, Server
from fewbits.learn import Method
from fewbits.links import Broadcast, Downlink, SharedInit, StateStore, Subscriber
from fewbits.links.bundle import pack, wrap
from fewbits.links.personal_updates import HeldState
from fewbits.methods import build
from fewbits.methods.downlink import downlink
from fewbits.rng import Key
from fewbits.wire import Frame
from test_broadcast import build as first
from test_broadcast import replayed, versions
from test_server_client import UPLINKS, model, train
from test_server_client import federation as ends

FOUR = chain(Quantize(4), Rans())
LINKS = [
    Downlink(Delta(chain(Quantize(8), Rans())), personal=FOUR),
    Downlink(Delta(chain(TopK(0.2))), personal=chain(TopK(0.3), Quantize(6), Rans())),
    Downlink(Raw(), personal=FOUR),
    Downlink(route([("bias", Raw()), ("*", Delta(Raw()))]), personal=chain(RandK(0.3))),
]


def serve(server, recipe, ack=0):
    """(what the receiver gets, what it holds after)."""
    found = server.catch_up(recipe)
    return wrap(found.frames, ack), found.after


@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize("down", LINKS, ids=repr)
def test_the_servers_recipe_gives_the_clients_bits_through_losses_absences_and_restarts(down, seeded, tmp_path):
    """Bundles get lost, acknowledgements get lost, both ends restart from what they stored."""
    draw = random.Random(repr(down))
    seed = SharedInit(Key(0), first) if seeded else None
    server = Broadcast(down, TREE, Key(0), keep=5, seed=seed)
    clients = [Subscriber(down, TREE, first) for _ in range(4)]
    known = [HeldState()] * 4
    stood = set()
    for x in versions(60):
        server.publish(x)
        for c, often in enumerate((1.0, 0.5, 0.2, 0.05)):
            if draw.random() > often:
                continue
            bundle, after = serve(server, known[c])
            if draw.random() < 0.2:
                continue  # the bundle is lost
            value = clients[c].receive(bundle)
            assert clients[c].version == server.version == after.version
            assert clients[c].personal == bool(after.frames)
            held = server.receiver_state(after)
            if held is None:
                assert not after.frames, "the public value needs no recipe"
                assert fingerprint(value) == fingerprint(server.value)
            else:
                assert fingerprint(value) == fingerprint(held.value) and held.version == server.version
            if draw.random() < 0.3:
                continue  # the acknowledgement is lost
            known[c] = HeldState.read(bytes(server.compact(after)))
            stood.add("own" if after.frames else "public")
            assert sum(map(len, known[c].frames)) <= 2 * (4 * 41 + 16)
            if draw.random() < 0.2:
                stored = clients[c].dump()
                clients[c] = Subscriber(down, TREE, first)
                clients[c].load(stored)
        if draw.random() < 0.1:
            dumped = server.dump()
            server = Broadcast(down, TREE, Key(0), keep=5, seed=seed)
            server.load(dumped)
    assert "own" in stood


@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize("down", LINKS, ids=repr)
def test_no_earlier_bundle_leads_back_or_changes_a_personal_value(down, seeded):
    """Bundles come late and again, acknowledgements get lost; what the server then sends still leads on."""
    draw = random.Random(repr(down))
    server = Broadcast(down, TREE, Key(0), keep=5, seed=SharedInit(Key(0), first) if seeded else None)
    clients, known = [Subscriber(down, TREE, first) for _ in range(4)], [HeldState()] * 4
    bundles, personal = [[], [], [], []], 0
    for x in versions(40):
        server.publish(x)
        for c, often in enumerate((1.0, 0.5, 0.3, 0.1)):
            if draw.random() > often:
                continue
            bundle, after = serve(server, known[c])
            bundles[c].append(bundle)
            if draw.random() < 0.2:
                continue  # it comes late, among the replayed
            value = fingerprint(clients[c].receive(bundle))
            replayed(clients[c], bundles[c])
            held = server.receiver_state(after)
            assert value == fingerprint(server.value if held is None else held.value)
            personal += clients[c].personal
            if draw.random() < 0.7:
                known[c] = server.compact(after)
    assert personal > 10


@pytest.mark.parametrize("down", LINKS, ids=repr)
def test_the_shortest_way_is_taken_be_it_lossy(down):
    """Against every frame that there could be: the public ways, and the difference made by hand."""
    server, follower, recipe = Broadcast(down, TREE, Key(0), keep=8), Subscriber(down, TREE), HeldState()
    draw = random.Random(1)
    for x in versions(40):
        server.publish(x)
        if draw.random() < 0.6:
            continue
        version = recipe.version
        track = server.receiver_state(recipe) or server.personal.blank()
        own = [server.personal.encode(server.value, server.version, track, server._sender.key)]
        public = server.frames(None if recipe.frames else version)
        lengths = len(pack(public)), len(pack(own))
        found = server.catch_up(recipe)
        assert len(pack(found.frames)) == min(lengths)
        assert found.exact == (lengths[0] <= lengths[1]), "exact among equals"
        follower.receive(wrap(found.frames, 0))
        recipe = server.compact(found.after)


def test_what_a_difference_misses_is_in_the_next_one():
    """EF21-P: towards a value that stands still, the client's comes as near as float32 allows."""
    down = Downlink(Delta(Raw()), personal=chain(TopK(0.1)))
    server, follower, recipe = Broadcast(down, TREE, Key(0)), Subscriber(down, TREE), HeldState()
    x = next(versions(1))
    errors = []
    for _ in range(12):
        server.publish(x)
        bundle, recipe = serve(server, recipe)
        value = follower.receive(bundle)
        errors.append(sum(float((value[name] - x[name]).norm()) for name in x))
    assert follower.personal and errors == sorted(errors, reverse=True) and errors[0] > 0.5 and errors[-1] < 1e-6


def test_who_holds_nothing_gets_a_quantised_snapshot_and_at_a_seed_the_difference_to_it():
    down = Downlink(Delta(Raw()), personal=FOUR)
    for seed, kinds in ((None, [True]), (SharedInit(Key(0), first), [False, False])):
        server = Broadcast(down, TREE, Key(0), keep=2, seed=seed)
        for x in versions(9):
            server.publish(x)
        found = server.catch_up(HeldState())
        assert not found.exact and [Frame.parse(f).header.key for f in found.frames] == kinds
        follower = Subscriber(down, TREE, first)
        assert fingerprint(follower.receive(wrap(found.frames, 0))) == fingerprint(
            server.receiver_state(found.after).value
        )


def test_running_statistics_stay_exact_beside_own_differences():
    down = Downlink(route([("bias", Raw()), ("*", Delta(Raw()))]), route([("bias", Raw()), ("*", Delta(FOUR))]))
    server, follower, recipe = Broadcast(down, TREE, Key(0)), Subscriber(down, TREE), HeldState()
    for x in versions(9):
        server.publish(x)
        bundle, recipe = serve(server, recipe)
        value = follower.receive(bundle)
        assert torch.equal(value["bias"], x["bias"])
    assert follower.personal


def test_frames_for_another_client_or_from_a_store_are_refused_and_change_nothing():
    down = LINKS[0]
    server = Broadcast(down, TREE, Key(0), keep=4)
    a, b, ra, rb = Subscriber(down, TREE), Subscriber(down, TREE), HeldState(), HeldState()
    for i, x in enumerate(versions(12)):
        server.publish(x)
        bundle, ra = serve(server, ra)
        a.receive(bundle)
        if i % 3 == 0:
            bundle, rb = serve(server, rb)
            b.receive(bundle)
    assert a.personal and b.personal
    before = fingerprint(b.value)
    server.publish(x)
    (frame,) = server.catch_up(ra).frames
    entry = server.frames(server.version - 1)
    payload = payload_of(frame)
    for bad, said in (
        ([frame], "was made for another value than ours"),
        (entry, "we hold a personal value"),
        ([a.dump()], "stored personal value"),
        ([restamp(frame, payload[:-1])], "another value"),
        ([restamp(frame, payload + b"\0", history=server.personal.blank().history, key=True)], "too long"),
        ([restamp(frame, codec=1)], "another codec"),
    ):
        with pytest.raises(WireError, match=said):
            b.receive(pack(bad))
        assert fingerprint(b.value) == before
    with pytest.raises(DesyncError, match="there is no value to add it to"):
        Subscriber(down, TREE).receive(pack([frame]))
    with pytest.raises(WireError, match="another codec"):
        Subscriber(down.public, TREE).receive(pack([frame]))
    for cut in range(len(bytes(ra))):
        with pytest.raises(WireError):
            HeldState.read(bytes(ra)[:cut])


@pytest.mark.parametrize("personal", [ErrorFeedback(TopK(0.1)), LookBack(Raw()), Delta(Raw())])
def test_a_codec_with_a_memory_is_refused(personal):
    with pytest.raises(LocalError):
        Downlink(Raw(), personal=personal)


def test_downlinks_are_values():
    assert downlink("own4") == downlink("own4") != downlink("own8") and len({downlink("own4"), downlink("own4")}) == 1
    assert eval(repr(downlink("own4")), {**vars(codecs), **vars(coders), "Downlink": Downlink}) == downlink("own4")


# Server and Client


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("up", UPLINKS[:3], ids=repr)
def test_server_and_clients_agree_through_lost_bundles_replies_and_restarts(up, stored, tmp_path):
    draw = random.Random(3)
    down = Downlink(Delta(chain(Quantize(8), Rans())), personal=FOUR)
    store = StateStore(tmp_path) if stored else None
    server, clients = ends(up, down, store=store)
    left = 0
    for t in range(30):
        for c in range(3):
            if draw.random() > (1.0, 0.6, 0.3)[c]:
                continue
            bundle = server.bundle(c)
            if draw.random() < 0.2:
                continue
            clients[c].receive(bundle)
            train(clients[c].model, c, t)
            frame = clients[c].reply()
            if draw.random() < 0.2:
                continue
            assert server.accept(c, frame, 1.0) is not None, server.reasons
            held = server.broadcast.receiver_state(server.downlinks.known_state(c))
            assert held is not None and held.version == clients[c].down.version == server.versions[c]
            assert fingerprint(held.value) == fingerprint(clients[c].down.value)
            left += clients[c].down.personal
        server.step()
        if stored and t % 7 == 6:
            store.commit()
            dumped, versions, round = server.dump(), dict(server.versions), server.round
            server, _ = ends(up, down, store=store)
            server.load(round, dumped, versions)
    assert left > 10 and not server.rejected
    if store is not None:
        store.close()


@pytest.mark.parametrize("down", [Raw(), Delta(Raw()), LINKS[0]], ids=repr)
def test_a_client_from_the_future_is_told_both_versions_and_the_round_goes_on(down):
    server, clients = ends(Raw(), down)
    for t in range(2):
        for c in range(3):
            clients[c].receive(server.bundle(c))
            frame = clients[c].reply()
            if (t, c) == (1, 1):
                for lie in (3, 40_000, 65_535):
                    assert server.accept(c, restamp(frame, ack=lie), 1.0) is None
                    assert (
                        server.reasons[c] == f"the client holds version {lie} of the model, but version 2 is the "
                        "newest that there is"
                    )
            assert server.accept(c, frame, 1.0) is not None, "the link is as it was"
        server.step()
    assert server.rejected == {1: 3} and server.versions == {0: 2, 1: 2, 2: 2}


def test_a_client_that_was_given_the_build_gets_a_seed():
    method = Method.of(Raw(), Delta(Raw()))

    def made(key):
        assert key == Key(4)
        return model()

    server = Server(model(), method, Key(0), init=SharedInit(Key(4), made))
    client = Client(model(), method, Key(1), build=made)
    bundle = server.bundle(0)
    assert len(bundle) < 50
    client.receive(bundle)
    assert torch.equal(client._core.public, server.flat.vector())
    with pytest.raises(DesyncError, match="no build"):
        Client(model(), method, Key(1)).receive(bundle)


# The engine


@pytest.mark.parametrize("name", ["own8", "own4"])
def test_own_differences_in_an_engine_take_fewer_bytes_and_count_what_each_client_got(name, tmp_path):
    """A real Follower per client, fed with the counted bundles; any number of processes, the same bytes."""
    found, followers, sizes = [], {}, [0]
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        settings = {"rounds": 14, "per_round": 3, "task": task(8)}
        run = federation(build("topk", {"down": name}), folder, processes=processes, **settings)

        def tap(round, client, direction, message, run=run):
            if direction == "down":
                if (run, client) not in followers:
                    followers[run, client] = Subscriber(downlink(name), run.server.exchange.update)
                followers[run, client].receive(message)
                sizes[0] += len(message)

        run.tap = tap
        result = run.run()
        found.append(evidence(run))
        assert sizes[0] == result.ledger.frame_bytes["down"] and result.notes == [] and not run.server.rejected
        sizes[0] = 0
    assert found[0] == found[1]
    assert sum(follower.personal for follower in followers.values()) > 2
    plain = federation(
        build("topk", {"down": name.replace("own", "delta")}), rounds=14, per_round=3, task=task(8)
    ).run()
    assert result.ledger.frame_bytes["down"] < 0.8 * plain.ledger.frame_bytes["down"]


def test_a_client_whose_training_fails_or_whose_frame_is_lost_stays_in_step(monkeypatch, tmp_path):
    original = Worker.encode

    def damaged(self, round, trained):
        reply, pieces = original(self, round, trained)
        frame = b"".join(pieces)
        return reply, [frame[:-1] + bytes([frame[-1] ^ 1]) if round % 3 == 2 and trained.client % 2 else frame]

    monkeypatch.setattr(Worker, "encode", damaged)
    run = federation(build("dense", {"down": "own4"}), tmp_path, rounds=12, per_round=4)
    run.run()
    assert sum(run.server.rejected.values()) > 3
    assert all("checksum" in reason for reason in run.server.reasons.values()), "and never another value than ours"


def test_a_seed_saves_the_first_model_of_every_client_and_nothing_else_changes(tmp_path):
    plain = federation(build("dense"), tmp_path / "plain", rounds=3)
    plain.run()
    given = replace(task(), seed=KEY, build=lambda key: mlp())
    seeded = federation(build("dense"), tmp_path / "seeded", rounds=3, task=given, processes=2)
    seeded.run()
    assert evidence(seeded)[0] == evidence(plain)[0]
    size, key = 4 * sum(p.numel() for p in mlp().parameters()), len(KEY.text())
    saved = plain.ledger.frame_bytes["down"] - seeded.ledger.frame_bytes["down"]
    assert saved == 6 * ((size + 16 + 3) - (2 + 16 + 2 + key + 8))
    with pytest.raises(LocalError, match="both seed and build"):
        task(seed=KEY)


def test_the_example_of_the_page_runs_and_its_figures_are_right():
    page = (Path(__file__).parents[1] / "docs" / "broadcast.md").read_text()
    names = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    sizes = len(names["first"]), sum(map(len, names["entries"])), len(names["back"])
    assert f"the seed takes {sizes[0]} bytes, the 20 entries {sizes[1]:,}, the patch {sizes[2]:,}," in page
