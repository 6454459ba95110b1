"""Other suites to compare with: none of them is needed, and not each of them runs on every Python."""

import importlib

import pytest


def imported(name, remedy="pip install robustsuite[peers]"):
    """A module of a peer; where it is absent, or breaks while it is imported, the test skips and says why."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever old code raises on a new Python
        pytest.skip(f"{name} cannot be imported ({type(error).__name__}: {error}); {remedy}")
