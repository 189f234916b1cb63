"""The command line as a page, read from the program itself."""

import inspect
import re
from typing import Any

import typer.main

from fewbits.cli.app import app
from fewbits.cli.lists import short
from fewbits.methods import METHODS
from fewbits.methods.catalogue import options
from fewbits.methods.downlink import DOWNLINKS
from fewbits.methods.gossip import GOSSIP
from fewbits.methods.gossip import options as gossip_options


def commands() -> str:
    """Markdown: a section per command."""
    return "\n".join(_sections(typer.main.get_command(app), "fewbits"))


def methods() -> str:
    """Markdown: a table of the methods with a server."""
    return "\n".join(_methods(METHODS, options))


def gossip() -> str:
    """Markdown: a table of the methods without a server."""
    return "\n".join(_methods(GOSSIP, gossip_options))


def downlinks() -> str:
    """Markdown: a table of what a server sends to its clients."""
    rows = [f"| `{name}` | {cell(what)} |" for name, what in DOWNLINKS.items()]
    return "\n".join(["| `down=` | what a client gets |", "|---|---|", *rows])


def _sections(group: Any, path: str) -> list[str]:
    found: list[str] = []
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found += _sections(command, f"{path} {name}")
        else:
            found += _section(command, f"{path} {name}")
    return found


def _section(command: Any, path: str) -> list[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    usage = " ".join([path, *(p.metavar or p.name.upper() for p in arguments), "[OPTIONS]"])
    found = [f"## {path}\n", inspect.cleandoc(command.help or ""), "", "```text", usage, "```", ""]
    rows = [_row(p) for p in command.params if p.name != "help" and not getattr(p, "hidden", False)]
    return [*found, "| option | what it is |", "|---|---|", *rows, ""] if rows else found


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        head = parameter.metavar or parameter.name.upper()
    else:
        head = ", ".join(parameter.opts) + _value(parameter)
    return f"| `{head}` | {cell(getattr(parameter, 'help', None) or '')} |"


def _value(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return ""
    return f" {parameter.metavar or str(parameter.type.name).upper()}"


def _methods(makers: Any, settings: Any) -> list[str]:
    rows = []
    for name, make in makers.items():
        what = (make.__doc__ or "").strip().split("\n")[0]
        given = ", ".join(f"`{option}={short(default)}`" for option, default in settings(name).items())
        rows.append(f"| `{name}` | {cell(what)} | {given} |")
    return ["| method | what it does | options and defaults |", "|---|---|---|", *rows]


def cell(text: str) -> str:
    """Text that stands in one cell of a table, and is not markup outside its code."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()).replace("|", "\\|"))
    return "".join(part if i % 2 else re.sub(r"[*<]", r"\\\g<0>", part) for i, part in enumerate(parts))
