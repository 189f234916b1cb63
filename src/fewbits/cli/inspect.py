"""`fewbits inspect`: the content of a frame in bits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.table import Table

from fewbits.cli.codec_text import parse
from fewbits.cli.config import read_json
from fewbits.cli.options import numbers
from fewbits.cli.screen import screen
from fewbits.codecs import Lift, as_lift
from fewbits.engines.common.run_files import WIRE
from fewbits.errors import LocalError
from fewbits.links.identity import PATCH, SEED, codec_hash
from fewbits.links.patch import parse_patch
from fewbits.links.shared_init import parse_seed
from fewbits.rng import Key
from fewbits.spec import Spec, TreeSpec
from fewbits.wire import BitReader, Frame, Section
from fewbits.wire.frame import HEADER_BYTES


class Contents(NamedTuple):
    """Codec and spec for reading a payload."""

    direction: str  # "uplink ", "downlink ", or "" when unknown
    codec: Lift
    spec: Spec | TreeSpec
    kind: str = ""  # of frame: "" for messages and states of the codec itself, else what `codec_hash` takes

    @property
    def hash(self) -> int:
        """The codec hash, as in a frame's header."""
        return codec_hash(self.codec, self.spec, self.kind)


def inspect(
    frame: Annotated[Path, typer.Argument(help="A file; `fewbits train --keep-frames N` saves some.", metavar="FRAME")],
    run: Annotated[Path | None, typer.Option(help="Folder of the run that the frame is from.")] = None,
    codec: Annotated[
        str | None, typer.Option(help="The codec instead of a run, such as 'flat(LookBack(chain(Raw())))'.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="With --codec: the sizes of the tensor, such as 431080 or 10,64.")
    ] = None,
) -> None:
    """Show a frame's header and, when its codec is known, the sections of its payload in bits.

    A frame contains only a hash of its codec. Give the run that it is from, or codec and shape. Frames of
    `fewbits train --keep-frames` and of `fewbits export` are recognised by the files beside them.

    The exit code is 1 where FRAME is no frame, or its payload is not of the codec; 2 where it cannot be read.
    """
    if (codec is None) != (shape is None) or (run is not None and codec is not None):
        raise LocalError("inspect: give --run, or --codec together with --shape, or neither")
    if frame.is_dir():
        raise LocalError(
            f"{frame} is a folder; give one of its frames, such as {frame / 'frames' / 'NAME'}: `fewbits train "
            "--keep-frames N` saves the first N"
        )
    try:
        parsed = Frame.parse(frame.read_bytes())
    except OSError as error:
        raise LocalError(f"{frame} cannot be read: {error.strerror}") from None
    console = screen()
    console.print(_header(parsed))
    note = run / WIRE if run is not None else _home(frame, parsed.header.codec) if codec is None else None
    if note is not None:
        contents = described(note, parsed.header.codec)
    elif codec is not None and shape is not None:
        contents = Contents("", as_lift(parse(codec), "inspect"), Spec(numbers(shape, "--shape")))
        computed = contents.hash
        if computed != parsed.header.codec:
            console.print(
                f"note: this codec and shape have another hash, {computed:04X}; the sections below are a guess",
                style="yellow",
            )
    else:
        console.print("The codec is not known; give --run, or --codec and --shape, to see the payload.")
        return
    console.print(
        f"{contents.direction}codec: {contents.kind}{contents.codec!r}", markup=False, highlight=False, soft_wrap=True
    )
    console.print(_sections(sections(parsed, contents), len(parsed.payload)))


def _home(frame: Path, wanted: int) -> Path | None:
    """The description of the frame, found by its hash: in the file beside it, or in the run above it."""
    for note in (frame.with_name(frame.name + ".json"), frame.parent / WIRE, frame.parent.parent / WIRE):
        if note.exists() and f'"hash": "{wanted:04X}"' in note.read_text():
            return note
    return None


def described(path: Path, wanted: int) -> Contents:
    """The codec with this hash, from the description of a run's links (wire.json)."""
    note: Any = read_json(path)
    try:
        ends = [_contents(link) for link in note]
    except (KeyError, TypeError, ValueError) as error:
        raise LocalError(f"{path} does not describe a run's codecs: {error}") from None
    for end in ends:
        if end.hash == wanted:
            return end
    hashes = ", ".join(f"{end.direction}{end.hash:04X}" for end in ends)
    raise LocalError(f"the frame's codec hash is {wanted:04X}; {path} has {hashes}")


def _contents(link: Any) -> Contents:
    spec = TreeSpec(tuple((str(name), Spec(tuple(sizes), dtype)) for name, sizes, dtype in link["tensors"]))
    return Contents(f"{link['link']} ", as_lift(parse(link["codec"]), "inspect"), spec, link.get("kind", ""))


def sections(frame: Frame, contents: Contents) -> list[Section]:
    """The payload's sections, outer before inner, in order; WireError when it is not of this codec."""
    src = BitReader(frame.payload)
    if contents.kind == SEED:
        parse_seed(src)
    elif contents.kind == PATCH:
        parse_patch(src, contents.codec, contents.spec)
    elif frame.header.snapshot:
        with src.section("state"):
            contents.codec.read_state(contents.spec, src)
    else:
        # The common key decides values, never lengths, so any key works.
        contents.codec.read(contents.spec, src, Key(0))
    src.finish()
    return sorted(src.sections, key=lambda s: (s.start, -s.stop, s.name.count("/")))


def _header(frame: Frame) -> Table:
    header, size = frame.header, HEADER_BYTES + len(frame.payload)
    table = Table(show_header=False, title=f"frame of {size:,} bytes", title_justify="left", title_style="bold")
    for name, value in {
        "codec hash": f"{header.codec:04X}",
        "sequence": f"{header.sequence}",
        "acknowledges": f"{header.ack} frames the other way",
        "key frame": "yes: the link starts afresh here" if header.key else "no",
        "snapshot": "yes: the payload is a state" if header.snapshot else "no",
        "history": f"{header.history:06X}",
        "header": f"{HEADER_BYTES} bytes",
        "payload": f"{len(frame.payload):,} bytes",
    }.items():
        table.add_row(name, value)
    return table


def _sections(found: list[Section], payload: int) -> Table:
    table = Table("section", header_style="bold")
    for name in ("from bit", "bits", "share"):
        table.add_column(name, justify="right")
    for section in found:
        outer, _, inner = section.name.rpartition("/")
        bits = section.stop - section.start
        if not bits:
            continue
        indent = "  " * (outer.count("/") + bool(outer))
        table.add_row(indent + inner, f"{section.start:,}", f"{bits:,}", f"{bits / max(1, 8 * payload):.1%}")
    return table
