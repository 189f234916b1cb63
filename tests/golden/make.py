"""Write golden frames for examples that have none yet: `python tests/golden/make.py`.

What is there is never changed: frames that were written once decode for ever. A change of the wire format raises the
version in `fewbits.wire.frame` and starts a new file beside this one.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from broadcasts import DOWNLINKS, played  # noqa: E402
from every_codec import CODECS, fingerprint, run, stream  # noqa: E402

FILE = HERE / "frames-v1.json"
BUNDLES = HERE / "bundles-v1.json"
ROUNDS = 4


def golden(codec) -> dict[str, object]:
    """Frames and state in hex, and the digest of each decoded value."""
    frames, values, _, receiver = run(codec, list(stream(ROUNDS)))
    return {
        "frames": [frame.hex() for frame in frames],
        "values": [fingerprint(value) for value in values],
        "state": receiver.dump().hex(),
    }


def main() -> None:
    """Add what is missing."""
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    added = {repr(codec): golden(codec) for codec in CODECS if repr(codec) not in known}
    FILE.write_text(json.dumps(known | added, indent=1) + "\n")
    print(f"{FILE.name}: {len(known)} kept, {len(added)} added")
    kept = json.loads(BUNDLES.read_text()) if BUNDLES.exists() else {}
    scenes = [(name, seeded) for name in DOWNLINKS for seeded in (False, True) if f"{name} {seeded}" not in kept]
    new = {f"{name} {seeded}": [(b.hex(), value) for b, value in played(name, seeded)] for name, seeded in scenes}
    BUNDLES.write_text(json.dumps(kept | new, indent=1) + "\n")
    print(f"{BUNDLES.name}: {len(kept)} kept, {len(new)} added")


if __name__ == "__main__":
    main()
