"""A slice of the fuzzing of all that reads outside bytes; more of it: python tests/fuzz/fuzz.py --seconds 600."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from effort import THOROUGH

FUZZ = Path(__file__).parent / "fuzz" / "fuzz.py"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs the extra `fuzz`, on Linux")
def test_no_outside_bytes_raise_another_error_or_take_more_memory_than_they_may(tmp_path):
    command = [sys.executable, str(FUZZ), "--seconds", "60" if THOROUGH else "3"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr[-4000:]
    assert "Done" in found.stderr
