"""Codecs of one vector: chains, wrappers, and their states."""

import numpy as np

from second_decoder.bits import WORDS, as_floats, cast, wide
from second_decoder.coders import integers, words
from second_decoder.keys import Name
from second_decoder.transforms import TRANSFORMS, Levels, Vector, read

FIXED = ("Fixed", {"": []})


def widened(seen):
    return seen._replace(dtype=wide(seen.dtype))


def parts(given, seen):
    if given.get("granularity", "model") == "model":
        return [widened(seen)]
    return [Vector(n, wide(seen.dtype)) for n in seen.lengths]


def start(codec, seen):
    """The state before the first message."""
    name, given = codec
    if name == "chain":
        return None
    inner = given[""][0]
    if name == "ErrorFeedback":
        return start(inner, widened(seen))
    if name == "LookBack":
        return [(None, start(inner, part)) for part in parts(given, seen)]
    first = None if name == "Predict" else np.zeros(seen.n, wide(seen.dtype))
    return first, start(inner, widened(seen))


def decode(codec, seen, bits, common, state):
    """(the vector in seen's type, the new state)."""
    name, given = codec
    if name == "chain":
        return chain(given[""], seen, bits, common), None
    x, state = {"ErrorFeedback": feedback, "Delta": delta, "Hold": hold, "Predict": predict, "LookBack": look_back}[
        name
    ](given, seen, bits, common, state)
    return cast(x, seen.dtype), state


def chain(steps, seen, bits, common):
    coder = steps[-1] if steps[-1][0] not in TRANSFORMS else FIXED
    backs = []
    for name, given in steps:
        if name in TRANSFORMS:
            seen, back = read(name, given, seen, bits, common)
            backs.append(back)
    if isinstance(seen, Levels):
        x = integers(coder, *seen, bits)
    else:
        x = as_floats(words(coder, seen.n, WORDS[seen.dtype], bits), seen.dtype)
    for back in reversed(backs):
        x = back(x)
    return x


def feedback(given, seen, bits, common, state):
    return decode(given[""][0], widened(seen), bits, common, state)


def delta(given, seen, bits, common, state):
    change, inner = decode(given[""][0], widened(seen), bits, common, state[1])
    h = state[0] + change
    return h, (h, inner)


def hold(given, seen, bits, common, state):
    x, inner = decode(given[""][0], widened(seen), bits, common, state[1])
    return x, (x, inner)


def predict(given, seen, bits, common, state):
    (h, inner), predicted, rest = state, bits.take(1), bits.take(1)
    assert predicted or rest
    x = h * h.dtype.type(bits.scalar()) if predicted else np.zeros(seen.n, wide(seen.dtype))
    if rest:
        change, inner = decode(given[""][0], widened(seen), bits, common, inner)
        x = x + change
    return x, (x, inner)


def look_back(given, seen, bits, common, state):
    pieces = parts(given, seen)
    recycled = [bits.take(1) for _ in pieces]
    scalars = iter([bits.scalar() for tag in recycled if tag])
    found, after = [], []
    for i, (part, tag, (last, inner)) in enumerate(zip(pieces, recycled, state, strict=True)):
        if tag:
            found.append(last * last.dtype.type(next(scalars)))
        else:
            key = common if len(pieces) == 1 else common.fold(i)
            last, inner = decode(given[""][0], part, bits, key, inner)
            found.append(last)
        after.append((last, inner))
    return np.concatenate(found), after


def read_state(codec, seen, bits):
    """A stored shared state."""
    name, given = codec
    if name == "chain":
        return None
    inner = given[""][0]
    if name == "ErrorFeedback":
        return read_state(inner, widened(seen), bits)
    if name == "LookBack":
        return [last_full(inner, part, bits) for part in parts(given, seen)]
    here = name != "Predict" or bits.take(1)
    h = stored(seen.n, wide(seen.dtype), bits) if here else None
    return h, read_state(inner, widened(seen), bits)


def last_full(inner, part, bits):
    if not bits.take(1):
        return None, read_state(inner, part, bits)
    key = read_key(bits)
    ahead = bits.at
    skipped, _ = decode(inner, part, bits, key, start(inner, part))  # only to know where the inner state begins
    assert len(skipped) == part.n
    state = read_state(inner, part, bits)
    behind, bits.at = bits.at, ahead
    last, state = decode(inner, part, bits, key, state)
    bits.at = behind
    return last, state


def read_key(bits):
    return Name.of(bits.bytes(bits.take(16)).decode())


def stored(n, dtype, bits):
    return as_floats(words(FIXED, n, WORDS[dtype], bits), dtype)
