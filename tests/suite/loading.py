"""Suite files of a test: written into the working folder, and loaded or refused."""

from pathlib import Path

import pytest

from robustsuite.core.errors import RequestError
from robustsuite.suite.load import load_suite


def load(text, *overrides, plugins=()):
    Path("s.yaml").write_text(text, encoding="utf-8")
    return load_suite("s.yaml", overrides, plugins)


def refusal(text, *overrides):
    with pytest.raises(RequestError) as caught:
        load(text, *overrides)
    return str(caught.value)


def labels(uses):
    return [use.label for use in uses]
