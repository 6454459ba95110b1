"""Random bytes of a finished run are changed: each change is found, and the table comes out the same."""

import os
import runpy
from pathlib import Path

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "random_damage.py"))
CHANGES = int(os.environ.get("ROBUSTSUITE_TEST_CHANGES", "60"))


@pytest.mark.slow
def test_every_change_of_a_byte_is_found_and_what_was_lost_is_played_again(tmp_path):
    """`ROBUSTSUITE_TEST_CHANGES=1000` makes more; benchmarks/random_damage.py can be stopped and goes on."""
    lines = SCRIPT["trial"](tmp_path, range(CHANGES), tmp_path / "told.jsonl")
    assert [line for line in lines if SCRIPT["wrong"](line)] == []
    assert {"records.jsonl", "samples", "models"} <= {SCRIPT["kind"](line) for line in lines}
    assert any(line["ran"] for line in lines if SCRIPT["kind"](line) == "records.jsonl")


def test_the_trial_goes_on_where_it_was_stopped_and_sees_what_is_overlooked(tmp_path):
    told = tmp_path / "told.jsonl"
    (first,) = SCRIPT["trial"](tmp_path / "a", range(1), told)
    again = SCRIPT["trial"](tmp_path / "b", range(2), told)
    assert again[0] == first
    assert len(told.read_text().splitlines()) == 2
    assert SCRIPT["wrong"]({**first, "found": False, "harmless": False})
    assert SCRIPT["wrong"]({**first, "same": False})
    assert not SCRIPT["wrong"](first)
