"""The three ways things go wrong, by whose mistake it is."""


class FewbitsError(Exception):
    """Any error that fewbits raises on purpose; its text is a sentence for a person."""


class LocalError(FewbitsError, ValueError):
    """The caller's mistake: a bad argument, an illegal stack, a tensor that is not finite."""


class WireError(FewbitsError, ValueError):
    """The peer's bytes are not a valid frame: nothing was decoded, nothing changed."""


class DesyncError(WireError):
    """A well-formed frame that is not the next one of this link; a key frame heals it."""
