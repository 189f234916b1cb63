"""Keep the first messages of a run as files, so that there is something to inspect."""

from __future__ import annotations

from pathlib import Path

from fewbits.links.bundle import unpack


class FrameRecorder:
    """Saves the frames of the first `count` messages, one file each, named by round, client and direction."""

    def __init__(self, folder: Path, count: int) -> None:
        """Frames that are in `folder` already count."""
        self._folder, self._count = folder, count
        self._kept = {path.name.split(".")[0] for path in folder.glob("*.bin")}

    @property
    def wants(self) -> bool:
        """Whether there is room for more."""
        return len(self._kept) < self._count

    def __call__(self, round: int, client: int, direction: str, data: bytes) -> None:
        """A frame on its way up, or a bundle of frames on its way down."""
        if not self.wants:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        frames = [data] if direction == "up" else unpack(data)
        stem = f"round{round:04d}-client{client}-{direction}"
        self._kept.add(stem)
        for i, frame in enumerate(frames):
            suffix = f".{i}.bin" if len(frames) > 1 else ".bin"
            (self._folder / (stem + suffix)).write_bytes(frame)
