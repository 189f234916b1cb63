"""The secure sum: exactly the survivors' sum, whoever drops out when; below the threshold nothing; no lie helps."""

import hashlib
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from fewbits import Key, LocalError, WireError
from fewbits.codecs import Partial
from fewbits.codecs.modular_encoding import ModularEncoding
from fewbits.privacy.pairwise_masking import MASKED, MaskedTotal, PairwiseMasking
from fewbits.privacy.secure_sum import ClientEnd, ServerEnd
from fewbits.privacy.secure_sum.key_agreement import KeyPair, seal, unseal
from fewbits.privacy.secure_sum.messages import CONTENT, Kind, client_bytes, read, write
from fewbits.privacy.secure_sum.shamir import PRIME, combine, split
from fewbits.privacy.secure_sum.threshold import needed
from fewbits.spec import Spec, TreeSpec

pytest.importorskip("cryptography")
BITS, N = 24, 50
ENCODING = ModularEncoding(BITS, 1.0, 40)
SECRET = hashlib.sha256(b"secret").digest()


def words(client, round=1):
    return Key(client).fold("words", round).below(2**16, N).astype(np.uint64)


def plain(clients, round=1):
    return sum((words(c, round) for c in clients), np.zeros(N, np.uint64)) % np.uint64(2**BITS)


class Round:
    """A round of some clients in one process; sets of clients drop out before a step."""

    def __init__(self, clients, share=2 / 3, round=1):
        self.clients = {c: ClientEnd(c, round, Key(1 << 200).fold("client", c), share) for c in clients}
        self.server = ServerEnd(clients, round, share)
        self.round, self.total, self.seen = round, np.zeros(N, np.uint64), {}

    def keys(self, lost=()):
        for c in self._left(lost):
            self.server.advertised(c, self.clients[c].advertise())
        return self

    def shares(self, lost=()):
        roster = self.server.roster()
        for c in self._left(lost):
            self.server.shared(c, self.clients[c].share(roster))
        return self

    def words(self, lost=()):
        deliveries = {c: self.server.delivery(c) for c in self.server.members}
        for c in self._left(lost):
            self.clients[c].open(deliveries[c])
            self.seen[c] = self.clients[c].mask(words(c, self.round), ENCODING)
            self.total = ENCODING.add(self.total, self.seen[c])
            self.server.arrive(c)
        return self

    def reveal(self, lost=()):
        survivors = self.server.survivors()
        for c in self._left(lost):
            self.server.revealed(c, self.clients[c].reveal(survivors))
        return self

    def sum(self):
        return self.server.unmask(self.total, ENCODING)

    def _left(self, lost):
        self.clients = {c: end for c, end in self.clients.items() if c not in lost}
        return self.clients


# the sum


@pytest.mark.parametrize("clients", [2, 3, 4, 7, 20])
def test_the_sum_of_a_round_without_drop_outs_is_exact(clients):
    play = Round(range(clients)).keys().shares().words().reveal()
    assert np.array_equal(play.sum(), plain(range(clients)))


@pytest.mark.parametrize("stage", ["keys", "shares", "words", "reveal"])
@pytest.mark.parametrize("lost", [{0}, {3}, {5}, {0, 1}, {2, 5}])
def test_the_sum_is_exactly_that_of_the_survivors_whoever_drops_out_when(stage, lost):
    play = Round(range(6))
    for step in ("keys", "shares", "words", "reveal"):
        getattr(play, step)(lost if step == stage else ())
    there = range(6) if stage == "reveal" else set(range(6)) - lost  # words that arrived stay in the sum
    assert np.array_equal(play.sum(), plain(there))


def test_every_number_of_drop_outs_up_to_the_threshold_is_recovered():
    for n in range(7):
        play = Round(range(3, 23)).keys().shares().words(set(range(4, 4 + n))).reveal()
        assert np.array_equal(play.sum(), plain(set(range(3, 23)) - set(range(4, 4 + n))))


def test_clients_drop_out_at_every_stage_of_one_round():
    play = Round(range(20)).keys({1}).shares({2}).words({7, 19}).reveal({0, 4})
    assert np.array_equal(play.sum(), plain(set(range(20)) - {1, 2, 7, 19}))


@pytest.mark.parametrize("stage", ["keys", "shares", "words", "reveal"])
def test_below_the_threshold_the_round_is_void_and_says_so(stage):
    play = Round(range(6))
    with pytest.raises(WireError, match=r"3 of 6 clients have sent their .*, and 4 are needed"):
        for step in ("keys", "shares", "words", "reveal"):
            getattr(play, step)({0, 2, 4} if step == stage else ())
        play.sum()


def test_a_round_of_one_is_no_sum():
    with pytest.raises(WireError, match="1 of 1 clients have sent their keys, and 2 are needed"):
        Round([4]).keys().shares()


@pytest.mark.parametrize("share", [0.51, 2 / 3, 0.8, 1.0])
def test_the_threshold_is_above_one_half_so_no_two_groups_can_be_told_different_stories(share):
    for clients in range(2, 40):
        assert 2 * needed(share, clients) > clients and share * clients <= needed(share, clients) <= max(2, clients)


def test_a_masked_total_decodes_to_the_survivors_sum_to_a_step():
    masking, spec = PairwiseMasking(bits=BITS), TreeSpec((("a", Spec((2, 2))), ("b", Spec((3,)))))
    ends = [masking.client(c, 4, Key(1 << 199).fold(c)) for c in range(4)]
    server, total = masking.server(range(4), 4), MaskedTotal(masking, spec)
    vectors = [0.1 * torch.from_numpy(Key(c).normal(7)) for c in range(4)]

    def cut(x):
        return {"a": x[:4].reshape(2, 2), "b": x[4:]}

    for c, end in enumerate(ends):
        server.advertised(c, end.advertise())
    for c, end in enumerate(ends):
        server.shared(c, end.share(server.roster()))
    for c in range(3):
        ends[c].open(server.delivery(c))
        total.add([Partial(masking.hide(cut(vectors[c]), ends[c], Key(c))[MASKED])], 1)
        server.arrive(c)
    assert not total.whole and not any(bool(x.any()) for x in total.value().values())
    with pytest.raises(LocalError, match="weigh 1 each; got 2"):
        total.add([Partial(torch.zeros(7))], 2)
    for c in range(3):
        server.revealed(c, ends[c].reveal(server.survivors()))
    total.unmask(server)
    assert total.whole and {name: tuple(x.shape) for name, x in total.value().items()} == {"a": (2, 2), "b": (3,)}
    found = torch.cat([x.reshape(-1) for x in total.value().values()])
    torch.testing.assert_close(found, sum(vectors[:3]), atol=2 * masking.encoding(4).step * 3, rtol=0)


# what is seen


def test_messages_and_partial_sums_look_uniform_even_with_the_pairs_of_a_lost_client():
    play = Round(range(5)).keys().shares().words()
    for size in (1, 2, 3, 4):
        for some in combinations(play.seen, size):
            total = sum(play.seen[c] for c in some) % np.uint64(2**BITS)
            counts = np.bincount((total >> np.uint64(BITS - 2)).astype(int), minlength=4)
            assert chisquare(counts).pvalue > 1e-6
            assert not np.array_equal(total, plain(some))


def test_the_self_mask_protects_a_message_whose_sender_was_taken_for_lost():
    """The server rejects client 0's frame, gets its mask key, and still cannot read the frame."""
    play = Round(range(6)).keys().shares()
    for c in play.server.members:
        play.clients[c].open(play.server.delivery(c))
    frames = {c: end.mask(words(c), ENCODING) for c, end in play.clients.items()}
    for c in range(1, 6):
        play.total = ENCODING.add(play.total, frames[c])
        play.server.arrive(c)
    del play.clients[0]
    assert np.array_equal(play.reveal().sum(), plain(range(1, 6)))
    pairs = play.server._pairs(0, play.server._secrets()[0])
    left = ENCODING.subtract(frames[0], ENCODING.mask(N, 0, pairs))
    assert not np.array_equal(left, words(0))
    assert chisquare(np.bincount((left >> np.uint64(BITS - 2)).astype(int), minlength=4)).pvalue > 1e-6


def test_two_rounds_and_two_clients_share_no_secret_and_one_key_gives_the_same_bytes():
    found = {ClientEnd(c, r, Key(9).fold(c)).advertise()[7:-4] for c in (0, 1) for r in (1, 2)}
    assert len(found) == 4
    assert ClientEnd(0, 1, Key(9)).advertise() == ClientEnd(0, 1, Key(9)).advertise()


# a server that lies


def delivered(clients=6):
    play = Round(range(clients)).keys().shares().words()
    return play, lambda numbers: write(Kind.SURVIVORS, 1, dict.fromkeys(numbers, b""))


def test_a_client_reveals_once():
    play, survivors = delivered()
    play.clients[1].reveal(survivors(range(6)))
    with pytest.raises(LocalError, match="client 1 does each step of round 1 once"):
        play.clients[1].reveal(survivors(range(1, 6)))


def test_a_client_that_delivered_and_is_listed_as_lost_reveals_nothing():
    play, survivors = delivered()
    with pytest.raises(WireError, match="client 0 has sent its words, and the server lists it as lost"):
        play.clients[0].reveal(survivors(range(1, 6)))
    assert play.clients[0].reveal(survivors(range(6)))  # the lie has not used up the step


def test_a_client_reveals_one_kind_of_share_for_each_member():
    play, survivors = delivered()
    found = read(Kind.REVEAL, 1, play.clients[0].reveal(survivors([0, 1, 2, 3])))
    shares = {c: play.clients[c]._split()[0] for c in range(6)}
    assert found == {c: shares[c][:33] if c < 4 else shares[c][33:] for c in range(6)}


@pytest.mark.parametrize(
    ("survivors", "reason"),
    [(range(2), "the survivors of 2 clients is below the threshold of 4"), (range(7), "not all members of the round")],
)
def test_a_list_of_survivors_that_cannot_be_true_is_refused(survivors, reason):
    play, write_list = delivered()
    with pytest.raises(WireError, match=reason):
        play.clients[0].reveal(write_list(survivors))


def test_a_server_that_tells_two_stories_gets_too_few_shares_of_either_kind():
    play, survivors = delivered()
    alive = [c for c in (0, 1, 2) if play.clients[c].reveal(survivors(range(6)))]
    lost = [c for c in (3, 4) if play.clients[c].reveal(survivors(range(5)))]
    assert len(alive) < needed(2 / 3, 6) > len(lost)
    shares = {c + 1: int.from_bytes(play.clients[5]._split()[c][:33], "big") for c in range(6)}
    assert combine({c + 1: shares[c + 1] for c in alive}) != play.clients[5]._self_secret
    assert combine({c + 1: shares[c + 1] for c in range(4)}) == play.clients[5]._self_secret


def changed(message, kind, change):
    items = read(kind, 1, message)
    change(items)
    return write(kind, 1, items)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda items: items.pop(0), "other keys for client 0 than its own, or none"),
        (lambda items: items.update({0: items[1]}), "other keys for client 0 than its own"),
        (lambda items: items.update({2: items[1]}), "two clients of the roster have the same key"),
        (lambda items: [items.pop(c) for c in range(1, 6)], "a roster of 1 clients is below the threshold of 2"),
    ],
)
def test_a_roster_that_cannot_be_true_is_refused(change, reason):
    play = Round(range(6)).keys()
    with pytest.raises(WireError, match=reason):
        play.clients[0].share(changed(play.server.roster(), Kind.ROSTER, change))


def test_a_public_key_of_low_order_is_refused():
    play = Round(range(3)).keys()
    roster = changed(play.server.roster(), Kind.ROSTER, lambda items: items.update({1: bytes(32) + items[1][32:]}))
    with pytest.raises(WireError, match="a point of low order"):
        play.clients[0].share(roster)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda items: items.update({9: items[1]}), "not the others of the roster"),
        (lambda items: items.update({0: items[1]}), "not the others of the roster"),
        (lambda items: [items.pop(c) for c in (1, 2, 3)], "a delivery of 3 clients is below the threshold of 4"),
    ],
)
def test_a_delivery_that_cannot_be_true_is_refused(change, reason):
    play = Round(range(6)).keys().shares()
    with pytest.raises(WireError, match=reason):
        play.clients[0].open(changed(play.server.delivery(0), Kind.DELIVERY, change))


def test_steps_come_in_order_and_once():
    play = Round(range(3))
    end = play.clients[0]
    with pytest.raises(LocalError, match="next is advertise, got mask"):
        end.mask(words(0), ENCODING)
    play.keys()
    with pytest.raises(LocalError, match="next is share, got advertise"):
        end.advertise()
    play.shares().words().reveal()
    with pytest.raises(LocalError, match="the round is over, got reveal"):
        end.reveal(play.server.survivors())


# clients that lie


def test_a_client_sends_each_message_once_as_itself_and_in_time():
    play = Round(range(4)).keys()
    keys = ClientEnd(1, 1, Key(3)).advertise()
    with pytest.raises(WireError, match="client 0 is not expected to send its keys"):
        play.server.advertised(0, ClientEnd(0, 1, Key(3)).advertise())
    fresh = ServerEnd(range(4), 1)
    with pytest.raises(WireError, match=r"client 0 advertises keys of clients \[1\]"):
        fresh.advertised(0, keys)
    with pytest.raises(WireError, match="client 7 is not expected"):
        fresh.advertised(7, keys)
    with pytest.raises(WireError, match="client 1 is not expected to send its words"):
        play.server.arrive(1)
    play.shares().words()
    with pytest.raises(WireError, match="client 1 is not expected to send its words"):
        play.server.arrive(1)


def test_keys_that_would_end_everybodys_round_cost_their_sender_its_turn_alone():
    play = Round(range(5))
    for c in (0, 1, 2):
        play.server.advertised(c, play.clients[c].advertise())
    copied = read(Kind.KEYS, 1, ClientEnd(0, 1, Key(1 << 200).fold("client", 0)).advertise())[0]
    keys = read(Kind.KEYS, 1, play.clients[4].advertise())[4]
    for lie, reason in [
        (copied, "advertised already"),
        (keys[:32] + copied[32:], "advertised already"),
        (keys[:32] * 2, "advertised already"),
        (bytes(32) + keys[32:], "a point of low order"),
    ]:
        with pytest.raises(WireError, match=reason):
            play.server.advertised(4, write(Kind.KEYS, 1, {4: lie}))
    play.server.advertised(3, play.clients[3].advertise())
    del play.clients[4]
    assert np.array_equal(play.shares().words().reveal().sum(), plain(range(4)))


def test_wrong_shares_of_a_mask_key_make_the_round_void():
    play = Round(range(4)).keys().shares().words({3})
    survivors = play.server.survivors()
    for c in range(3):
        message = play.clients[c].reveal(survivors)
        if c == 1:
            message = changed(message, Kind.REVEAL, lambda items: items.update({3: (7).to_bytes(33, "big")}))
        play.server.revealed(c, message)
    with pytest.raises(WireError, match="a client lied"):
        play.sum()


def test_a_share_that_is_no_number_below_the_prime_is_refused():
    play = Round(range(3)).keys().shares().words()
    message = play.clients[0].reveal(play.server.survivors())
    with pytest.raises(WireError, match="client 0 reveals what is no share"):
        play.server.revealed(
            0, changed(message, Kind.REVEAL, lambda items: items.update({1: PRIME.to_bytes(33, "big")}))
        )


def test_a_client_whose_shares_cannot_be_opened_spoils_no_other_secret():
    play = Round(range(6)).keys()
    roster = play.server.roster()
    for c, end in play.clients.items():
        message = end.share(roster)
        if c == 5:
            message = changed(message, Kind.SHARES, lambda items: items.update({0: bytes(82)}))
        play.server.shared(c, message)
    play.words().reveal()
    assert np.array_equal(play.sum(), plain(range(6)))


# bytes


def every_message():
    play = Round(range(3))
    keys = play.clients[0].advertise()
    play.server.advertised(0, keys)
    for c in (1, 2):
        play.server.advertised(c, play.clients[c].advertise())
    roster = play.server.roster()
    shares = play.clients[0].share(roster)
    play.server.shared(0, shares)
    for c in (1, 2):
        play.server.shared(c, play.clients[c].share(roster))
    delivery = play.server.delivery(0)
    play.words()
    survivors = play.server.survivors()
    return dict(zip(Kind, [keys, roster, shares, delivery, survivors, play.clients[0].reveal(survivors)], strict=True))


def test_lengths_are_those_that_a_plan_foresees():
    found = every_message()
    assert client_bytes(3)[0] == sum(len(found[k]) for k in (Kind.KEYS, Kind.SHARES, Kind.REVEAL))
    assert client_bytes(3)[1] == sum(len(found[k]) for k in (Kind.ROSTER, Kind.DELIVERY, Kind.SURVIVORS))


def test_hostile_bytes_raise_wire_errors_alone():
    for kind, message in every_message().items():
        assert write(kind, 1, read(kind, 1, message)) == message
        draws = Key(11).fold(int(kind))
        for i in range(60):
            spoiled = bytearray(message)
            for at, value in zip(draws.fold("at", i).below(len(message), 2), draws.fold(i).below(256, 2), strict=True):
                spoiled[at] = int(value)
            if spoiled != message:
                with pytest.raises(WireError):
                    read(kind, 1, bytes(spoiled))
        for cut in {0, 1, 6, 10, 11, len(message) - 1}:
            with pytest.raises(WireError):
                read(kind, 1, message[:cut])
        with pytest.raises(WireError, match="of round 2; got round 1"):
            read(kind, 2, message)
        with pytest.raises(WireError):
            read(next(other for other in Kind if other != kind), 1, message)


def test_a_claimed_count_is_checked_against_the_length_before_anything_is_read():
    with pytest.raises(WireError, match=r"65535 items has 4456391 bytes; got 11"):
        read(Kind.ROSTER, 1, bytes([0x12, 0, 0, 0, 1, 255, 255, 0, 0, 0, 0]))


def test_clients_that_do_not_ascend_are_refused():
    from zlib import crc32

    data = bytes([0x15]) + (1).to_bytes(4, "big") + (2).to_bytes(2, "big") + bytes(8)
    with pytest.raises(WireError, match="do not ascend"):
        read(Kind.SURVIVORS, 1, data + crc32(data).to_bytes(4, "big"))
    assert set(CONTENT) == set(Kind)


def test_an_end_that_moves_to_another_process_goes_on():
    play = Round(range(4))
    for step in ("keys", "shares", "words", "reveal"):
        for c, end in play.clients.items():
            play.clients[c] = ClientEnd(c, 1, Key(1 << 200).fold("client", c))
            play.clients[c].load(end.dump())
            assert play.clients[c].dump() == end.dump()
        getattr(play, step)({2} if step == "words" else ())
    assert np.array_equal(play.sum(), plain({0, 1, 3}))
    for spoiled in (b"", b"x", b"\x01\x01\x09", b"\x03\x01\x02\x01a\x00"):
        with pytest.raises(WireError):
            ClientEnd(0, 1, Key(1)).load(spoiled)


# the parts


@pytest.mark.parametrize(("threshold", "places"), [(1, 1), (2, 3), (4, 6), (14, 20)])
def test_a_threshold_of_shares_gives_the_secret_back(threshold, places):
    shares = split(SECRET, threshold, range(1, places + 1), Key(4))
    for some in list(combinations(shares, threshold))[:30]:
        assert combine({place: shares[place] for place in some}) == SECRET


def test_fewer_shares_say_nothing():
    """Every other secret is as possible: one more share, rightly chosen, leads to it."""
    shares = split(SECRET, 3, range(1, 6), Key(4))
    target = int.from_bytes(bytes(32), "big")
    x1, x2, x3 = 1, 2, 3
    at = [x2 * x3 * pow((x2 - x1) * (x3 - x1), -1, PRIME), x1 * x3 * pow((x1 - x2) * (x3 - x2), -1, PRIME)]
    last = x1 * x2 * pow((x1 - x3) * (x2 - x3), -1, PRIME)
    third = (target - at[0] * shares[1] - at[1] * shares[2]) * pow(last, -1, PRIME) % PRIME
    assert combine({1: shares[1], 2: shares[2], 3: third}) == bytes(32)


def test_the_modulus_is_prime_and_holds_every_secret():
    assert PRIME > 2**256 and PRIME < 2**264
    assert all(pow(base, PRIME - 1, PRIME) == 1 for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29))
    odd, twos = PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in range(2, 40):  # Miller and Rabin
        x = pow(base, odd, PRIME)
        assert x == 1 or any(pow(x, 2**k, PRIME) == PRIME - 1 for k in range(twos))


def test_shares_that_do_not_fit_are_refused():
    for secret, threshold, places in ((b"short", 1, [1]), (SECRET, 3, [1, 2]), (SECRET, 2, [1, 1]), (SECRET, 1, [0])):
        with pytest.raises(LocalError, match=r"shamir\.split"):
            split(secret, threshold, places, Key(0))


def test_an_agreed_key_is_of_one_pair_and_one_purpose():
    a, b, c = (KeyPair(bytes([i]) * 32) for i in (1, 2, 3))
    found = {a.agree(b.public, b"x"), b.agree(a.public, b"x"), a.agree(c.public, b"x"), a.agree(b.public, b"y")}
    assert len(found) == 3


def ladder(secret):
    """The public key of RFC 7748, section 5, by its Montgomery ladder."""
    p, k = 2**255 - 19, (int.from_bytes(secret, "little") & ~7 & (2**255 - 1)) | 2**254
    x1, x2, z2, x3, z3 = 9, 1, 0, 9, 1
    for t in reversed(range(255)):
        if k >> t & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        e, da, cb = a * a - b * b, d * a, c * b
        x3, z3 = (da + cb) ** 2 % p, x1 * (da - cb) ** 2 % p
        x2, z2 = a * a * b * b % p, e * (a * a + 121665 * e) % p
        if k >> t & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return (x2 * pow(z2, -1, p) % p).to_bytes(32, "little")


def test_public_keys_are_those_of_rfc_7748():
    for secret in (SECRET, bytes([255]) * 32, bytes(31) + b"x"):
        assert KeyPair(secret).public == ladder(secret)


def test_a_sealed_message_opens_only_whole_with_its_key_and_its_label():
    sealed = seal(SECRET, b"share", b"1 to 2")
    assert unseal(SECRET, sealed, b"1 to 2") == b"share"
    assert unseal(SECRET, sealed, b"1 to 3") is None and unseal(bytes(32), sealed, b"1 to 2") is None
    assert unseal(SECRET, sealed[:-1] + b"x", b"1 to 2") is None and unseal(SECRET, b"", b"1 to 2") is None


@pytest.mark.parametrize("threshold", [0.5, 0.0, 1.1, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(LocalError, match=r"threshold must be a number in \(0\.5, 1\]"):
        PairwiseMasking(threshold=threshold)


def test_without_the_library_there_is_a_sentence(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    with pytest.raises(LocalError, match=r"pip install 'fewbits\[secure\]'"):
        PairwiseMasking().for_round_size(3, 3)
