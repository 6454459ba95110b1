"""Kept results: whole or absent, checked by digests, within a limit."""

import json
import os
import threading
import time

import pytest

from robustsuite.core.errors import RequestError
from robustsuite.storage.store import Store, cache, size_of

FACTS = {"history": [{"epoch": 0.0, "loss": 0.5}], "flags": ["few-samples"]}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


def test_gives_back_what_was_put(store):
    store.put("models", "abc", FACTS, b"weights")
    assert store.get("models", "abc") == (FACTS, b"weights")
    assert store.get("models", "abd") is None
    assert store.get("cells", "abc") is None
    assert store.has("models", "abc")
    assert not store.has("models", "abd")


def test_an_entry_without_payload_is_whole(store):
    store.put("cells", "abc", FACTS)
    assert store.get("cells", "abc") == (FACTS, b"")


@pytest.mark.parametrize("name", ["abc.json", "abc.safetensors"])
@pytest.mark.parametrize("position", [0.0, 0.3, 0.6, 0.95])
def test_a_changed_byte_is_found_out_and_named(store, name, position):
    store.put("models", "abc", FACTS, bytes(range(256)))
    path = store.root / "models" / name
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 0x01
    path.write_bytes(content)
    kept = store.get("models", "abc")
    if kept is not None:  # a digit of the time at which it was made determines nothing
        assert kept == (FACTS, bytes(range(256)))
        return
    assert not path.exists()
    assert len(store.notes) == 1
    assert "models/abc was damaged and is made again" in store.notes[0]


@pytest.mark.parametrize("content", [b"", b"{}", b"[1, 2", b'{"facts": 1}', b"null", b"\xff\xfe", b'{"made": "x"}'])
def test_foreign_facts_are_no_entry(store, content):
    store.put("models", "abc", FACTS, b"weights")
    (store.root / "models" / "abc.json").write_bytes(content)
    assert store.get("models", "abc") is None
    assert store.notes


def test_a_payload_that_is_gone_is_no_entry(store):
    store.put("models", "abc", FACTS, b"weights")
    (store.root / "models" / "abc.safetensors").unlink()
    assert store.get("models", "abc") is None


def test_what_was_made_before_counts_as_absent_until_it_is_made_again(store):
    store.put("models", "abc", FACTS, b"old")
    later = Store(store.root, since=time.time() + 1e-3)
    time.sleep(2e-3)
    assert later.get("models", "abc") is None
    later.put("models", "abc", FACTS, b"new")
    assert later.get("models", "abc") == (FACTS, b"new")


def test_trim_removes_what_was_used_longest_ago(store):
    for age, key in enumerate(["a", "b", "c", "d"]):
        store.put("models", key, {}, bytes(1000))
        os.utime(store.root / "models" / f"{key}.json", (1000 + age, 1000 + age))
    assert store.get("models", "a") is not None  # which makes it the newest
    size = sum(entry.size for entry in store.entries())
    removed = store.trim(int(0.6 * size))
    assert [entry.key for entry in removed] == ["b", "c"]
    assert {entry.key for entry in store.entries()} == {"a", "d"}
    assert sum(entry.size for entry in store.entries()) <= 0.6 * size
    assert store.trim(None) == []


def test_verify_removes_only_what_is_damaged(store):
    for key in "abc":
        store.put("models", key, {}, b"weights " + key.encode())
    (store.root / "models" / "b.safetensors").write_bytes(b"other")
    assert [entry.key for entry in store.verify()] == ["b"]
    assert {entry.key for entry in store.entries()} == {"a", "c"}


def test_a_place_that_refuses_costs_a_note_and_nothing_else(tmp_path):
    (tmp_path / "file").write_text("no folder")
    store = Store(tmp_path / "file")
    store.offer("models", "abc", FACTS, b"weights")
    assert store.get("models", "abc") is None
    assert any("could not keep models" in note for note in store.notes)


def test_the_lock_is_held_by_one_at_a_time(store):
    order = []

    def second():
        with store.lock("models", "abc"):
            order.append("second")

    with store.lock("models", "abc"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_facts_are_plain_json_on_disk(store):
    store.put("cells", "abc", FACTS)
    assert json.loads((store.root / "cells" / "abc.json").read_text())["facts"] == FACTS


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("10", 10), ("1KB", 1000), ("2.5 GB", 2_500_000_000), ("3m", 3_000_000), ("1T", 10**12)],
)
def test_sizes_are_read_as_people_write_them(text, count):
    assert size_of("limit", text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1 PB", "a lot", "1e9"])
def test_other_sizes_are_refused(text, monkeypatch):
    with pytest.raises(RequestError, match="a size such as 500MB"):
        size_of("limit", text)
    if text:
        monkeypatch.setenv("ROBUSTSUITE_CACHE_LIMIT", text)
        with pytest.raises(RequestError, match="ROBUSTSUITE_CACHE_LIMIT"):
            cache()
