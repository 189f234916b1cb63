"""Write goldens for examples that have none yet: `python tests/golden/make.py`.

What is there is never changed: frames and identities that were written once hold for ever. A change of the wire format
raises the version in `fewbits.wire.frame` and starts new files beside these.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from broadcasts import DOWNLINKS, played  # noqa: E402
from every_codec import CODECS, fingerprint, run, stream  # noqa: E402
from fewbits.wire.identity import canonical  # noqa: E402
from identities import pinned  # noqa: E402

FRAMES = HERE / "frames-v1.json"  # by the codec's canonical text, so that no name of Python's stands in it
BUNDLES = HERE / "bundles-v1.json"
IDENTITIES = HERE / "identities-v1.json"
ROUNDS = 4


def golden(codec) -> dict[str, object]:
    """Frames and state in hex, and the digest of each decoded value."""
    frames, values, _, receiver = run(codec, list(stream(ROUNDS)))
    return {
        "frames": [frame.hex() for frame in frames],
        "values": [fingerprint(value) for value in values],
        "state": receiver.dump().hex(),
    }


def add(file: Path, known: dict[str, object], new: dict[str, object]) -> None:
    """Write the file again with what is new."""
    file.write_text(json.dumps(known | new, indent=1) + "\n")
    print(f"{file.name}: {len(known)} kept, {len(new)} added")


def read(file: Path) -> dict[str, object]:
    """What is there already."""
    return json.loads(file.read_text()) if file.exists() else {}


def main() -> None:
    """Add what is missing."""
    frames, bundles, identities = read(FRAMES), read(BUNDLES), read(IDENTITIES)
    add(FRAMES, frames, {canonical(codec): golden(codec) for codec in CODECS if canonical(codec) not in frames})
    scenes = [(name, seeded) for name in DOWNLINKS for seeded in (False, True) if f"{name} {seeded}" not in bundles]
    new = {f"{name} {seeded}": [(b.hex(), value) for b, value in played(name, seeded)] for name, seeded in scenes}
    add(BUNDLES, bundles, new)
    add(IDENTITIES, identities, {name: found for name, found in pinned().items() if name not in identities})


if __name__ == "__main__":
    main()
