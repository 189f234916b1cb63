"""The laws of codecs and coders, for authors: call `check_codec` in a test of your own. Needs no pytest."""

from fewbits.testing.case import as_codecs
from fewbits.testing.check import CODEC_LAWS, CODER_LAWS, check_codec, check_coder
from fewbits.testing.law import Law
from fewbits.testing.values import HARD_INPUTS, hard_inputs

__all__ = ["CODEC_LAWS", "CODER_LAWS", "HARD_INPUTS", "Law", "as_codecs", "check_codec", "check_coder", "hard_inputs"]
