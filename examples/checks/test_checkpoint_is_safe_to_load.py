"""The weights are the ones that were released, and loading them runs no code.

pytest test_checkpoint_is_safe_to_load.py --checkpoint weights.safetensors --checkpoint-digest 9f86d081...
"""

import hashlib
from pathlib import Path

import pytest

from robustsuite.core import RequestError
from robustsuite.models.checkpoint import load_into

pytestmark = pytest.mark.security


@pytest.fixture
def checkpoint(pytestconfig):
    named = pytestconfig.getoption("--checkpoint")
    if named is None:
        pytest.skip("no --checkpoint to look at")
    return Path(named)


def test_digest(checkpoint, pytestconfig):
    pinned = pytestconfig.getoption("--checkpoint-digest")
    assert pinned, "no --checkpoint-digest to hold the file against"
    found = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert found == pinned, f"{checkpoint} has the digest {found}, and {pinned} was released"


def test_loads_without_code(checkpoint, pytestconfig, make):
    """safetensors, or a .pt of tensors alone; every weight finite, every key the network's own."""
    try:
        load_into(make(pytestconfig.getoption("--model")), checkpoint)
    except RequestError as refusal:
        pytest.fail(str(refusal))
