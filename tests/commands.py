"""Commands as tests call them, in this process."""

import shlex

from typer.testing import CliRunner

from fewbits.cli.app import app


def call(command, code=0):
    """What a command, without its first word, prints; it must end with this exit code."""
    result = CliRunner().invoke(app, shlex.split(command), env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == code, result.output
    return result.output
