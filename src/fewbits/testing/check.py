"""check_codec, check_coder: all laws in one call."""

from __future__ import annotations

from fewbits.codecs import Codec, Delta, ErrorFeedback, LookBack, Transform
from fewbits.coders import Coder
from fewbits.errors import LocalError
from fewbits.spec import Spec, TreeSpec
from fewbits.testing import (
    coder_laws,
    hostile_laws,
    identity_laws,
    input_laws,
    link_laws,
    promise_laws,
    purity_laws,
    sum_laws,
    transform_laws,
)
from fewbits.testing.case import as_codecs
from fewbits.testing.law import laws_of

CODEC_LAWS = laws_of(
    identity_laws,
    link_laws,
    purity_laws,
    transform_laws,
    input_laws,
    promise_laws,
    sum_laws,
    hostile_laws,
)
CODER_LAWS = laws_of(coder_laws)
WRAPPERS = (ErrorFeedback, LookBack, Delta)


def check_codec(codec: Codec | Transform, spec: Spec | TreeSpec | None = None, *, thorough: bool = False) -> None:
    """Try a codec, or a transform in a chain, under every law of codecs.

    The codecs of fewbits are held to the same laws. Everything is drawn from fixed keys, so a result repeats. One call
    takes a few seconds.

    Args:
        codec: what to try; a transform is tried as `chain(transform)`, and with `Rans` when it gives levels.
        spec: the only Spec that the codec takes; None: it takes all shapes and float dtypes, and many are tried.
        thorough: try the codec under `ErrorFeedback`, `LookBack` and `Delta`, too, where they accept it.

    Raises:
        AssertionError: the codec breaks a law; the sentence names the law, the input and both values.

    Example:
        >>> from fewbits import TopK
        >>> check_codec(TopK(0.25))
    """
    tried = as_codecs(codec)
    for one in [*tried, *(_wrapped(tried[0]) if thorough else [])]:
        for law in CODEC_LAWS:
            law(one, spec)


def check_coder(coder: Coder) -> None:
    """Try a coder under every law of coders.

    Args:
        coder: what to try.

    Raises:
        AssertionError: the coder breaks a law; the sentence names the law, the levels and both values.

    Example:
        >>> from fewbits import Fixed
        >>> check_coder(Fixed())
    """
    for law in CODER_LAWS:
        law(coder)


def _wrapped(codec: Codec) -> list[Codec]:
    """The codec under each wrapper that accepts it."""
    found = []
    for wrapper in WRAPPERS:
        try:
            found.append(wrapper(codec))
        except LocalError:
            continue
    return found
