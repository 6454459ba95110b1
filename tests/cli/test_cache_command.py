"""`robustsuite cache`."""

import pytest
from typer.testing import CliRunner

from robustsuite.cli.app import app
from robustsuite.storage.store import cache


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / "cache"))
    kept = cache()
    for key in "abc":
        kept.put("models", key, {"flags": []}, bytes(5000))
    return kept


def invoke(*arguments):
    return CliRunner().invoke(app, ["cache", *arguments])


def test_shows_what_it_holds(store):
    done = invoke()
    assert done.exit_code == 0
    assert str(store.root) in done.output
    assert "models" in done.output
    assert "of at most 5.0 GB" in done.output


def test_clear_removes_all(store):
    assert invoke("clear").output.startswith("removed: 3 entries")
    assert list(store.entries()) == []


def test_trim_takes_a_limit(store):
    assert invoke("trim", "--limit", "11KB").exit_code == 0
    assert len(list(store.entries())) == 2
    wrong = invoke("trim", "--limit", "plenty")
    assert wrong.exit_code == 2
    assert "'plenty'" in wrong.output


def test_verify_says_what_was_damaged(store):
    assert invoke("verify").exit_code == 0
    (store.root / "models" / "b.safetensors").write_bytes(b"else")
    done = invoke("verify")
    assert done.exit_code == 1
    assert "models/b was damaged" in done.output
    assert "damaged and removed: 1 entries" in done.output
