"""Passage: what was written or read once is repeated elsewhere as if it were written there anew."""

import pytest
import torch

from fewbits.codecs import Keys, LookBack, Quantize, Raw, Sign, TopK, chain
from fewbits.coders import Elias, Golomb, Rans, Zstd
from fewbits.links import Receiver, Sender
from fewbits.rng import Key
from fewbits.spec import Spec
from fewbits.wire import BitReader, BitWriter

CODECS = [
    chain(Raw()),
    chain(Sign()),
    chain(Sign(bucket=7)),
    chain(Quantize(bits=3), Elias()),
    chain(Quantize(bits=4), Golomb()),
    chain(Quantize(bits=4), Zstd()),
    chain(TopK(0.1), Quantize(bits=4), Rans()),
    chain(TopK(1.0)),
    LookBack(chain(TopK(0.1), Quantize(bits=4), Rans())),
]


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("numel", [1, 5, 900])
def test_a_message_is_repeated_at_every_place(codec, numel):
    spec, x = Spec((numel,)), torch.from_numpy(Key(numel).normal(numel))
    message, _ = codec.encode(x, spec, codec.init(spec), codec.memory(spec), Keys(Key(1), Key(2)))
    for before in (0, 1, 3, 7, 8, 520):
        out = BitWriter()
        out.write(0, before)
        codec.write(message, spec, out)
        stop = out.bits
        written = out.passage(before)
        out.write(5, 3)  # what follows is no part of it
        src = BitReader(out.finish())
        src.read(before)
        codec.read(spec, src, Key(2))
        assert src.bits == stop
        assert src.passage(before) == written
        for place in (0, 1, 6, 8, 11):
            direct, again = BitWriter(), BitWriter()
            direct.write(0, place)
            codec.write(message, spec, direct)
            direct.write(1, 2)
            again.write(0, place)
            again.repeat(written)
            again.write(1, 2)
            assert (again.bits, again.finish()) == (direct.bits, direct.finish())


@pytest.mark.parametrize("codec", [chain(TopK(0.1), Quantize(bits=4), Rans()), chain(Quantize(bits=6)), chain(Raw())])
def test_a_look_back_state_is_stored_as_if_it_were_coded_anew(codec):
    spec, look_back = Spec((500,)), LookBack(codec)
    sender, receiver = Sender(look_back, spec, Key(0)), Receiver(look_back, spec)
    for _ in range(2):  # in full, and recycled
        receiver.receive(sender.send(torch.from_numpy(Key(3).normal(500))))
        sender.commit()
        state, anew = sender.state[0], BitWriter()
        anew.write(1, 1)
        text = state.last.common.text().encode()
        anew.write(len(text), 16)
        anew.write_bytes(text)
        codec.write(state.last.message, spec, anew)
        assert receiver.dump()[16:] == anew.finish()
        assert (state.last.passage is None) == (codec == chain(Raw())), "a whole vector is not held twice"
        again = Receiver(look_back, spec)
        again.load(receiver.dump())
        assert again.dump() == receiver.dump()
