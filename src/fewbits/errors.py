"""The errors that fewbits raises, by cause: the caller, the peer's bytes, the link's state, a lost peer."""

LONGEST = 10_000  # characters of an exception's text


class FewbitsError(Exception):
    """Base of all errors that fewbits raises on purpose; the text is a sentence for a person.

    Example:
        >>> import fewbits as fb
        >>> all(issubclass(e, fb.FewbitsError) for e in (fb.LocalError, fb.WireError, fb.DesyncError))
        True
    """


class LocalError(FewbitsError, ValueError):
    """The caller made a mistake: a bad argument, a refused stack of codecs, a tensor that is not finite.

    Nothing has changed when it is raised. Correct the call and repeat it.

    Example:
        >>> import fewbits as fb
        >>> fb.Zstd(level=20)
        Traceback (most recent call last):
        ...
        fewbits.errors.LocalError: Zstd: level must be a whole number in 1..19; got 20
    """


class WireError(FewbitsError, ValueError):
    """The peer's bytes are not a valid frame or payload.

    Nothing was decoded and no state has changed. Drop the bytes; the link goes on with the next frame.

    Example:
        >>> from fewbits.wire import Frame
        >>> Frame.parse(b"short")
        Traceback (most recent call last):
        ...
        fewbits.errors.WireError: a frame has at least 16 bytes; got 5
    """


class DesyncError(WireError):
    """A well-formed frame is not the next one of this link: a frame was lost, repeated or made under another state.

    No state has changed. A key frame, which makes both ends forget their shared state, repairs the link.

    Example:
        >>> import torch, fewbits as fb
        >>> spec = fb.Spec((3,))
        >>> sender, receiver = fb.Sender(fb.Raw(), spec, fb.Key(1)), fb.Receiver(fb.Raw(), spec)
        >>> lost = sender.send(torch.zeros(3))
        >>> sender.commit()
        >>> receiver.receive(sender.send(torch.ones(3)))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        fewbits.errors.DesyncError: ...
    """


class PeerLostError(FewbitsError):
    """Another process of the run, or the store where the processes meet, stopped; the run cannot continue.

    The text names the process and its host when they are known. Start the run again: it goes on from its checkpoint.

    Example:
        >>> raise PeerLostError("node 2 on host b stopped in round 7")
        Traceback (most recent call last):
        ...
        fewbits.errors.PeerLostError: node 2 on host b stopped in round 7
    """


def words(error: BaseException) -> str:
    """What an exception says, whoever made it: "" when it cannot say it, and "?" for what cannot be printed.

    >>> words(ValueError("half a pair: \\ud800"))
    'half a pair: ?'
    """
    try:
        text = str(error)[:LONGEST]
    except Exception:  # noqa: BLE001 - somebody else's `__str__` may raise anything
        return ""
    return "".join(c if c.isprintable() or c.isspace() else "?" for c in text)
