"""Sessions of pytest inside this process, where nothing has to be imported again."""

import contextlib
import io
import os
from dataclasses import dataclass

import pytest

ABSENT = ("cacheprovider", "faulthandler", "unraisableexception", "xdist")  # the third collects garbage for seconds


@dataclass(frozen=True)
class Said:
    """Exit code and output of a session."""

    returncode: int
    stdout: str
    stderr: str


def run_here(*arguments):
    """A session without the settings of this project."""
    out, error = io.StringIO(), io.StringIO()
    common = [f"-c{os.devnull}", "--import-mode=importlib", *(f"-pno:{plugin}" for plugin in ABSENT)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = pytest.main([*common, *map(str, arguments)])
    return Said(int(code), out.getvalue(), error.getvalue())
