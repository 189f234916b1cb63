"""What goes wrong, by whose mistake it is: ours, the peer's bytes, or a peer that is lost."""


class FewbitsError(Exception):
    """Any error that fewbits raises on purpose; its text is a sentence for a person."""


class LocalError(FewbitsError, ValueError):
    """The caller's mistake: a bad argument, an illegal stack, a tensor that is not finite."""


class WireError(FewbitsError, ValueError):
    """The peer's bytes are not a valid frame: nothing was decoded, nothing changed."""


class DesyncError(WireError):
    """A well-formed frame that is not the next one of this link; a key frame heals it."""


class PeerLostError(FewbitsError):
    """Another process of this run, or the store where they meet, is gone or has stopped; the run cannot go on."""
