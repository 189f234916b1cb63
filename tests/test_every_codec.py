"""Every codec of the package obeys all laws of `fewbits.testing`."""

import numpy as np
import pytest

from every_codec import classes, each_codec
from fewbits import codecs, coders
from fewbits.codecs import Chain, ErrorFeedback
from fewbits.spec import Spec
from fewbits.testing import HARD_INPUTS, check_codec
from fewbits.testing.case import Case
from fewbits.testing.input_laws import refusals
from fewbits.testing.values import HUGE, hard_vectors


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
def test_every_class_has_examples(cls):
    assert not getattr(cls, "__abstractmethods__", None), f"{cls.__name__} defines no examples()"
    assert len(cls.examples()) > 0
    assert all(type(example) is cls for example in cls.examples())


@each_codec
def test_obeys(codec):
    check_codec(codec)


@each_codec
def test_repr_builds_an_equal_codec_from_the_public_names(codec):
    public = {name: getattr(room, name) for room in (coders, codecs) for name in room.__all__}
    assert eval(repr(codec), public) == codec


@each_codec
def test_the_largest_numbers_are_refused_only_where_they_do_not_fit(codec):
    assert (
        not refusals(Case(codec), HUGE) or "fp16" in repr(codec) or "unbiased" in repr(codec)
    )  # 1e38: not in fp16, nor times n/k


@each_codec
def test_only_route_goes_by_names(codec):
    assert Case(codec).takes(Spec((17,))) == ("route" not in repr(codec))
    assert Case(codec).takes(Spec.of({})) == ("route" not in repr(codec))


@each_codec
def test_only_what_multiplies_its_input_is_refused_under_error_feedback(codec):
    coarse = "chain(Quantize(bits=2)" in repr(codec)  # its own dither is larger than a whole vector
    if isinstance(codec, Chain) and not ("unbiased" in repr(codec) or "Modular" in repr(codec) or coarse):
        ErrorFeedback(codec)


def test_the_hard_inputs_are_what_their_names_say():
    hard = hard_vectors(41)
    assert tuple(hard) == HARD_INPUTS
    assert np.signbit(hard["negative zeros"]).all() and not hard["negative zeros"].any()
    assert set(hard["ties"]) == {1.0, -1.0} and np.count_nonzero(hard["mostly zero"]) == 1
    denormal = hard["denormal"].astype(np.float32)
    assert 0 < np.abs(denormal).max() < np.finfo(np.float32).tiny
    assert (hard["smallest"].astype(np.float32) == np.float32(2.0**-149)).all()
    assert np.abs(hard["large"]).max() == 1e38 and len(set(np.sign(hard["large"]))) == 2
