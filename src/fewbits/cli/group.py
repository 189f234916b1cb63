"""ErrorGroup: commands whose errors are sentences, in any encoding, and with one suggestion for a wrong name."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, get_type_hints

from typer.core import TyperGroup

from fewbits.choices import nearest
from fewbits.cli.screen import STDOUT, believe_columns, drop_stdout, name_stdout, screen, write_anything
from fewbits.errors import FewbitsError, LocalError

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # in the environment of a process that torchrun started


class ErrorGroup(TyperGroup):
    """Prints an error of fewbits as one sentence; the exit code is 2 for the caller's mistakes, else 1."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for command in self.commands.values():
            _describe_arguments(command)

    def main(self, *args: Any, **options: Any) -> Any:
        write_anything()
        believe_columns()
        name_stdout()
        try:
            try:
                return super().main(*args, **options)
            finally:
                sys.stdout.flush()  # now, not while the interpreter ends, which could not say what is wrong
        except BrokenPipeError:
            drop_stdout()
            sys.exit(1)
        except OSError as error:  # of --help and --version, which are no command
            if error.filename != STDOUT:
                raise
            _complain(error)
            sys.exit(1)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            near = nearest(name, self.commands)
            ctx.fail(f"No such command {name!r}." + (f" Did you mean {near!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> object:
        try:
            return super().invoke(ctx)
        except FewbitsError as error:
            _complain(error)
            ctx.exit(2 if isinstance(error, LocalError) else 1)
        except BrokenPipeError:
            raise  # the reader of a pipe has seen enough; typer ends without a word
        except OSError as error:  # a wrong path, no permission, a full disk
            _complain(error)
            ctx.exit(1)


def _describe_arguments(command: Any) -> None:
    """Give arguments their help again: click 8.5 clears what typer 0.20 has set."""
    for parameter in command.params:
        if parameter.param_type_name == "argument" and not parameter.help:
            hint = get_type_hints(command.callback, include_extras=True)[parameter.name]
            parameter.help = next(info.help for info in hint.__metadata__ if hasattr(info, "help"))


def _complain(error: Exception) -> None:
    said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else error
    if isinstance(error, OSError) and error.filename == STDOUT:
        drop_stdout()
    sentence = f"fewbits: {said}"
    if file := os.environ.get(ERROR_FILE):
        _tell_torchrun(sentence, Path(file))
    screen(stderr=True).print(sentence, style="red", markup=False, highlight=False, soft_wrap=True)


def _tell_torchrun(sentence: str, file: Path) -> None:
    """Leave the sentence where torchrun looks for it: it prints a traceback of its own, and this at the end."""
    record = {"message": sentence, "extraInfo": {"py_callstack": sentence, "timestamp": str(int(time.time()))}}
    with suppress(OSError):
        file.write_text(json.dumps({"message": record}), encoding="utf-8")
