"""`fewbits.testing` finds mistakes: each law has a codec or coder that breaks it, and says so in a sentence."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import broken_codecs as bad
from broken_codecs import Centre, Counted, Levels, Whole, variant
from fewbits.codecs import Delta, ErrorFeedback, Flat
from fewbits.coders import Fixed
from fewbits.links.finite import all_finite
from fewbits.spec import Contract, Spec
from fewbits.testing import CODEC_LAWS, CODER_LAWS, HARD_INPUTS, check_codec, check_coder, hard_inputs
from fewbits.wire import Frame


@dataclass(frozen=True)
class Nameless(Centre):
    """No wire name of its own."""


def promises(**what):
    return lambda self, spec: Contract(payload_bits=64, **what)


def noisy(self, side, carrier, spec):
    return Centre.join(self, side, carrier, spec) + torch.rand(1, dtype=spec.torch_dtype)


def of_threads(self, x, spec, keys):
    return float(torch.get_num_threads()), x - float(torch.get_num_threads())


AFFINE = variant(Centre, linear=True, contract=promises(linear=True))
PADDED = variant(Whole, read=bad.pads_what_is_missing)
COUNTED = variant(Delta, decode=bad.counted)

# The law, a codec that breaks it, and what the sentence says.
BROKEN = [
    ("inputs_are_not_changed", variant(Centre, split=bad.centres_in_place), "The input changed; before: "),
    ("every_part_has_a_unique_wire_name", Nameless(), "Nameless needs a wire name of its own"),
    ("every_part_has_a_unique_wire_name", variant(Centre, wire_name="topk"), "'topk' is the wire name of TopK"),
    ("equal_codecs_have_one_identity_and", bad.Amount(0.0), "two identities; one: .*keep=0.*other: .*keep=false"),
    ("repr_builds_an_equal_codec", variant(Centre, __repr__=lambda self: "TopK(1)"), "repr builds another codec"),
    (
        "reading_what_was_written",
        variant(Centre, read=lambda self, spec, src, common: float(np.float32(Centre.read(self, spec, src, common)))),
        r"message that was read is another one; input: \{weight: float32\[5, 7\].*written: .*read: ",
    ),
    ("both_ends_have_the_same_value", variant(Centre, join=noisy), "Values differ; input: .*expected: .*found: "),
    ("both_ends_have_the_same_value", COUNTED, "States differ; sender: .*receiver: "),
    ("a_resend_after_rollback", variant(ErrorFeedback, encode=bad.remembers_in_place), "Frames differ"),
    ("a_skipped_or_repeated_frame", COUNTED, "differ"),
    ("a_sender_that_lost_everything", COUNTED, "States differ"),
    ("a_receiver_that_lost_everything", COUNTED, "States differ"),
    (
        "dumped_ends_continue",
        variant(Delta, read_state=lambda self, spec, src: (Delta.read_state(self, spec, src)[0].round(), ())),
        "A loaded end dumps other bytes; dumped: .*again: ",
    ),
    (
        "bytes_do_not_depend_on_global_state",
        variant(Centre, split=lambda self, x, spec, keys: (s := float(torch.rand(1)), x - s)),
        "The generator of torch moved",
    ),
    ("bytes_do_not_depend_on_the_number_of_threads", variant(Centre, split=of_threads), "Frames differ"),
    (
        "encoding_and_decoding_change_none",
        variant(ErrorFeedback, encode=bad.remembers_in_place),
        "encode changed state or memory; before: .*after: ",
    ),
    (
        "encoding_and_decoding_change_none",
        variant(Centre, split=bad.centres_in_place),
        "encode changed the value; before: .*after: ",
    ),
    (
        "a_carrier_is_what_was_declared",
        variant(Levels, carrier=lambda self, side, spec: Spec((spec.numel,), "int16", -7, 7)),
        "the carrier is not as declared; input: .*int16.*int8",
    ),
    ("a_carrier_is_what_was_declared", variant(Levels, quantises=False), "set `quantises` aright"),
    (
        "a_carrier_is_what_was_declared",
        variant(Centre, join=lambda self, side, carrier, spec: carrier.double() + side),
        "join gives another shape or dtype; vector: float32.*joined: float64",
    ),
    (
        "levels_lie_in_the_range",
        variant(Levels, carrier=lambda self, side, spec: Spec((spec.numel,), "int8", -6, 6)),
        r"levels -7\.\.",
    ),
    ("a_sparse_side_is_an_ascending_support", bad.Heaviest(0.25), "the side is no ascending support"),
    ("a_linear_join_is_linear", AFFINE, "join is not linear in the carrier; expected: .*found: "),
    (
        "a_projection_is_orthogonal",
        variant(Centre, projection=True, join=lambda self, side, carrier, spec: 2 * carrier + side),
        "what is lost is not orthogonal",
    ),
    (
        "hard_values_come_out_finite",
        variant(Centre, split=lambda self, x, spec, keys: (1 / float(x.double().norm() if spec.numel else 1), x)),
        "Sending 'zeros' raised ZeroDivisionError: .*only LocalError is allowed; input: ",
    ),
    ("hard_values_come_out_finite", variant(Centre, split=bad.refuses_zeros), "'zeros' was refused; error: .*all zero"),
    (
        "every_length_and_shape_works",
        variant(Centre, split=lambda self, x, spec, keys: (float(x.max()), x - float(x.max()))),
        "Sending raised RuntimeError: .*input: float32",
    ),
    ("every_float_type_works", variant(Centre, split=bad.only_float32), "Sending raised ValueError: only float32"),
    ("memory_layout_does_not_matter", variant(Flat, encode=bad.looks_at_the_layout), "Frames differ"),
    (
        "the_payload_is_as_long_as_promised",
        variant(Centre, contract=lambda self, spec: Contract(payload_bits=32)),
        "not as long as promised; input: .*promised bits: 1344; bytes: 172",
    ),
    (
        "what_promises_to_lose_nothing",
        variant(Levels, contract=promises(lossless=True)),
        "The value is another one; sent: .*arrived: ",
    ),
    (
        "a_contraction_leaves_on_average",
        variant(
            Levels,
            split=bad.signs,
            join=bad.one_level,
            contract=lambda self, spec: Contract(payload_bits=64, delta=1 / max(1, spec.numel)),
        ),
        "Too much is lost; input: .*limit: .*lost: ",
    ),
    ("a_contraction_leaves_on_average", variant(Centre, contract=promises(delta=1.5)), r"delta must be in \(0, 1\]"),
    (
        "an_unbiased_codec_is_right",
        variant(Levels, contract=promises(omega=0.02)),  # a dither would keep it; the nearest level is biased
        "C.x. is biased; input: ",
    ),
    (
        "an_unbiased_codec_is_right",
        variant(Levels, split=bad.mean_scale, contract=promises(omega=41 / 49)),
        "C.x. is biased; input: .*mean: .*squared bias: ",
    ),
    ("an_unbiased_codec_is_right", variant(Levels, contract=promises(omega=1e-4)), "C.x. varies too much"),
    ("error_feedback_loses_nothing_for_good", variant(Centre, join=noisy), "Something got lost"),
    ("frames_summed_before_they_are_expanded", AFFINE, "not the sum of the values; expected: .*found: "),
    ("following_a_message", variant(Delta, follow=lambda self, message, spec, state: state), "gives another state"),
    ("frames_of_a_linear_codec", AFFINE, "decodes to another vector"),
    ("a_truncated_frame_is_refused", PADDED, "A payload that was cut to 0 bytes was accepted"),
    (
        "an_extended_frame_is_refused",
        variant(Whole, read=bad.skips_what_is_left),
        "A payload with bytes after its end was accepted; frame: .* bytes fb",
    ),
    (
        "a_flipped_bit_under_a_right_checksum",
        variant(
            Centre,
            split=bad.points_at_the_largest,
            join=bad.trusts_a_position,
            read=bad.reads_a_position,
            write=bad.writes_a_position,
            contract=lambda self, spec: Contract(payload_bits=16),
        ),
        "Receiving a hostile frame raised (IndexError|RuntimeError): .*only WireError is allowed; input: .* bytes fb",
    ),
    (
        "random_payloads_give_an_error",
        variant(Whole, write=bad.writes_a_length, read=bad.trusts_a_length),
        "Too much memory was taken; numbers: 41; limit: 4000000; bytes: ",
    ),
    (
        "random_payloads_give_an_error",
        variant(Whole, write=bad.writes_a_length, read=bad.trusts_a_length_in_torch),
        "Too much memory was taken; numbers: 41; limit: 4000000; bytes: ",
    ),
    (
        "small_frames_of_a_large_tensor",
        variant(Whole, write=bad.writes_a_length, read=bad.trusts_a_length),
        "Too much memory was taken; numbers: 1000024",
    ),
    (
        "a_damaged_or_foreign_store",
        variant(Delta, read_state=lambda self, spec, src: (src.skip(src.remaining), Delta.init(self, spec))[1]),
        "No WireError came; input: ",
    ),
]

# Laws that links keep, whatever most codecs do: what to replace in them, by what, a codec, and what the sentence says.
UNCOPIED = {"fewbits.links.sender.same_memory": lambda a, b: False}
LINKS = [
    (
        "changing_a_sent",
        UNCOPIED,
        variant(ErrorFeedback, encode=bad.keeps_its_input),
        "It raised LocalError: ErrorFeedback: the vector and the residual",
    ),
    (
        "values_that_are_not_finite",
        {"fewbits.links.sender.check_finite": lambda x, owner: None},
        Centre(),
        "nan in bias was sent; input: ",
    ),
    (
        "a_sum_of_nothing_is_zero",
        {"fewbits.codecs.base.Total.value": lambda self: torch.ones(41)},
        Centre(),
        "The sum is not zero; found: ",
    ),
    (
        "a_flipped_bit_is_refused",
        {"fewbits.wire.frame.crc32": lambda *data: 0},
        Centre(),
        "A frame whose bit .* was accepted; frame: ",
    ),
    (
        "a_header_that_does_not_fit",
        {"fewbits.links.receiver.Receiver._parse": lambda self, frame: Frame.parse(frame)},
        Centre(),
        "A header with {'codec': .*} was accepted; frame: ",
    ),
    (
        "a_frame_of_another_spec_key_or_codec",
        {f"fewbits.links.{end}.next_history": lambda *parts: 7 for end in ("sender", "receiver")},
        Centre(),
        "No DesyncError came; input: ",
    ),
]

CODERS = [
    ("a_coder_has_a_unique_wire_name", bad.coder(wire_name="rans"), "'rans' is the wire name of Rans"),
    ("equal_coders_have_one_identity", bad.Lanes(1), "two identities; one: .*other: .*lanes=true"),
    ("repr_builds_an_equal_coder", bad.coder(__repr__=lambda self: "Fixed()"), "repr builds another codec"),
    (
        "levels_come_back",
        bad.coder(read=lambda self, spec, src: -Fixed.read(self, spec, src)),
        "Other levels came back; spec: .*written: .*read: ",
    ),
    ("levels_come_back", bad.coder(payload_bits=lambda self, spec: 8), "not as long as promised; spec: "),
    (
        "float_words_come_back",
        bad.coder(read=lambda self, spec, src: Fixed.read(self, spec, src) | (0 if spec.integer else 1)),
        "Other levels came back",
    ),
    ("long_levels_come_back", bad.coder(read=bad.forgets_long_ones), "Other levels came back"),
    (
        "a_coder_may_start_between_bytes",
        bad.coder(read=bad.reads_one_bit_more),
        "bits around the levels changed",
    ),
    (
        "one_level_and_no_elements",
        bad.coder(write=lambda self, values, spec, out: out.write(0, 1)),
        "Bits were written; spec: .*bits: 1",
    ),
    ("wrong_values_are_the_callers_mistake", bad.coder(write=bad.unchecked), "was written as"),
    ("damaged_bytes_never", bad.coder(read=bad.pads_levels), "Bytes that were cut were read; bytes: "),
    ("random_bytes_never", bad.Bytes(), "Levels outside the range were read; bytes: .*read: "),
    ("reading_takes_memory", bad.coder(read=bad.blocks), "Too much memory was taken; numbers: 100000; "),
]


def the(name, laws):
    """The law whose name starts so."""
    found = [law for law in laws if law.__name__.startswith(name)]
    assert len(found) == 1, name
    return found[0]


def numbered(cases):
    return [f"{case[0]}-{i}" for i, case in enumerate(cases)]


def breaks(law, target, says):
    with pytest.raises(AssertionError, match=rf"(?s)breaks {law.__name__}\. .*(?:{says})") as found:
        law(target)
    assert repr(target) in str(found.value) and law.sentence in str(found.value)


@pytest.mark.parametrize(("name", "codec", "says"), BROKEN, ids=numbered(BROKEN))
def test_a_law_finds_the_mistake_and_names_itself_the_codec_and_the_values(name, codec, says):
    breaks(the(name, CODEC_LAWS), codec, says)


@pytest.mark.parametrize(("name", "changes", "codec", "says"), LINKS, ids=numbered(LINKS))
def test_a_law_finds_a_link_that_lets_it_pass(name, changes, codec, says, monkeypatch):
    law = the(name, CODEC_LAWS)
    law(codec)
    for target, replacement in changes.items():
        monkeypatch.setattr(target, replacement)
    breaks(law, codec, says)


@pytest.mark.parametrize(("name", "coder", "says"), CODERS, ids=numbered(CODERS))
def test_a_law_finds_the_mistake_of_a_coder(name, coder, says):
    breaks(the(name, CODER_LAWS), coder, says)


def test_every_law_has_something_that_breaks_it():
    assert {the(name, CODEC_LAWS) for name, *_ in (*BROKEN, *LINKS)} == set(CODEC_LAWS)
    assert {the(name, CODER_LAWS) for name, *_ in CODERS} == set(CODER_LAWS)


def test_the_check_stops_at_the_first_broken_law():
    with pytest.raises(AssertionError, match=r"every_part_has_a_unique_wire_name.*Nameless needs"):
        check_codec(Nameless())
    with pytest.raises(AssertionError, match=r"levels_come_back_bit_for_bit"):
        check_coder(bad.coder(payload_bits=lambda self, spec: 8))


def test_a_codec_of_one_spec_is_tried_on_that_spec_alone():
    codec = variant(Centre, split=bad.only_float32)
    check_codec(codec, Spec((6, 2)))
    with pytest.raises(AssertionError, match="only float32"):
        check_codec(codec)


def test_thorough_finds_what_shows_only_under_a_wrapper():
    check_codec(bad.Growing(), Spec((8,)))
    with pytest.raises(AssertionError, match=r"ErrorFeedback\(chain\(Growing"):
        check_codec(bad.Growing(), Spec((8,)), thorough=True)


def test_good_coders_pass():
    check_coder(Counted())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_the_hard_inputs_have_the_spec_and_are_finite(dtype):
    for spec in (
        Spec((3, 5), dtype),
        Spec.of({"w": torch.zeros(4, dtype=getattr(torch, dtype)), "b": torch.zeros(())}),
    ):
        inputs = hard_inputs(spec)
        assert tuple(inputs) == HARD_INPUTS
        for x in inputs.values():
            assert Spec.of(x) == spec and all_finite(x)
