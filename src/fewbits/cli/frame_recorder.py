"""Save the first messages of a run as files for `fewbits inspect`."""

from __future__ import annotations

from pathlib import Path

from fewbits.links.bundle import unpack


class FrameRecorder:
    """Saves the frames of the first `count` messages, one file each, named by round, client and direction."""

    def __init__(self, folder: Path, count: int) -> None:
        """Frames that are in `folder` already are counted."""
        self._folder, self._count = folder, count
        self._saved = {path.name.split(".")[0] for path in folder.glob("*.bin")}

    @property
    def wants(self) -> bool:
        """Whether more messages will be saved."""
        return len(self._saved) < self._count

    def __call__(self, round: int, client: int, direction: str, data: bytes) -> None:
        """Save a frame of the uplink, or the frames of a bundle of the downlink."""
        if not self.wants or direction not in ("up", "down"):  # keys and shares of masks are no frames
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        frames = [data] if direction == "up" else unpack(data)
        stem = f"round{round:04d}-client{client}-{direction}"
        self._saved.add(stem)
        for i, frame in enumerate(frames):
            suffix = f".{i}.bin" if len(frames) > 1 else ".bin"
            (self._folder / (stem + suffix)).write_bytes(frame)
