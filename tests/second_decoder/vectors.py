"""Codecs of one vector: chains, wrappers, and their states."""

import numpy as np

from second_decoder.bits import WORDS, as_floats, cast, wide
from second_decoder.coders import integers, words
from second_decoder.keys import Name
from second_decoder.supports import support
from second_decoder.transforms import Levels, Vector, read

FIXED = ("fixed", {})


def widened(seen):
    return seen._replace(dtype=wide(seen.dtype))


def start(codec, seen):
    """The state before the first message."""
    name, given = codec
    if name == "chain":
        return None
    if name == "since_start":
        return np.zeros(seen.n, wide(seen.dtype))
    inner = given["codec"]
    if name == "blocks":
        return [start(inner, part) for part in cut(given, seen)]
    if name == "error_feedback":
        return start(inner, widened(seen))
    if name == "look_back":
        return None, start(inner, widened(seen))
    first = None if name == "predict" else np.zeros(seen.n, wide(seen.dtype))
    return first, start(inner, widened(seen))


def decode(codec, seen, bits, common, state):
    """(the vector in seen's type, the new state)."""
    name, given = codec
    if name == "chain":
        return chain(given, seen, bits, common), None
    if name == "since_start":
        return entries(state, seen.dtype, bits), state
    x, state = {
        "error_feedback": feedback,
        "delta": delta,
        "last_value": last_value,
        "predict": predict,
        "look_back": look_back,
        "blocks": blocks,
    }[name](given, seen, bits, common, state)
    return cast(x, seen.dtype), state


def chain(given, seen, bits, common):
    coder, backs = given["coder"], []
    for name, options in given["transforms"]:
        seen, back = read(name, options, seen, bits, common)
        backs.append(back)
    if isinstance(seen, Levels):
        x = integers(coder, *seen, bits)
    else:
        x = as_floats(words(coder, seen.n, WORDS[seen.dtype], bits), seen.dtype)
    for back in reversed(backs):
        x = back(x)
    return x


def entries(h, dtype, bits):
    """h with other words at some places."""
    k, x = bits.delta() - 1, h.copy()
    places = support(k, len(h), bits)
    x[places] = stored(k, dtype, bits)
    return x


def feedback(given, seen, bits, common, state):
    return decode(given["codec"], widened(seen), bits, common, state)


def cut(given, seen):
    """What the codec of each block sees."""
    size = -(-seen.n // given["count"])
    lengths = [min(size, max(0, seen.n - k * size)) for k in range(given["count"])]
    return [Vector(n, wide(seen.dtype)) for n in lengths]


def blocks(given, seen, bits, common, state):
    parts, after = cut(given, seen), list(state)
    there = [k for k in range(given["count"]) if bits.take(1)]
    found = [np.zeros(part.n, wide(seen.dtype)) for part in parts]
    for k in there:
        found[k], after[k] = decode(given["codec"], parts[k], bits, common.fold("block", k), state[k])
    return np.concatenate(found), after


def delta(given, seen, bits, common, state):
    change, inner = decode(given["codec"], widened(seen), bits, common, state[1])
    h = state[0] + change
    return h, (h, inner)


def last_value(given, seen, bits, common, state):
    x, inner = decode(given["codec"], widened(seen), bits, common, state[1])
    return x, (x, inner)


def predict(given, seen, bits, common, state):
    (h, inner), predicted, rest = state, bits.take(1), bits.take(1)
    assert predicted or rest
    x = h * h.dtype.type(bits.scalar()) if predicted else np.zeros(seen.n, wide(seen.dtype))
    if rest:
        change, inner = decode(given["codec"], widened(seen), bits, common, inner)
        x = x + change
    return x, (x, inner)


def look_back(given, seen, bits, common, state):
    last, inner = state
    if bits.take(1):
        assert last is not None
        return last * last.dtype.type(bits.scalar()), state
    last, inner = decode(given["codec"], widened(seen), bits, common, inner)
    return last, (last, inner)


def read_state(codec, seen, bits):
    """A stored shared state."""
    name, given = codec
    if name == "chain":
        return None
    if name == "since_start":
        return stored(seen.n, seen.dtype, bits)
    inner = given["codec"]
    if name == "blocks":
        return [read_state(inner, part, bits) for part in cut(given, seen)]
    if name == "error_feedback":
        return read_state(inner, widened(seen), bits)
    if name == "look_back":
        return last_full(inner, widened(seen), bits)
    here = name != "predict" or bits.take(1)
    h = stored(seen.n, wide(seen.dtype), bits) if here else None
    return h, read_state(inner, widened(seen), bits)


def last_full(inner, seen, bits):
    if not bits.take(1):
        return None, read_state(inner, seen, bits)
    key = read_key(bits)
    ahead = bits.at
    skipped, _ = decode(inner, seen, bits, key, start(inner, seen))  # only to know where the inner state begins
    assert len(skipped) == seen.n
    state = read_state(inner, seen, bits)
    behind, bits.at = bits.at, ahead
    last, state = decode(inner, seen, bits, key, state)
    bits.at = behind
    return last, state


def read_key(bits):
    return Name.of(bits.bytes(bits.take(16)).decode())


def stored(n, dtype, bits):
    return as_floats(words(FIXED, n, WORDS[dtype], bits), dtype)
