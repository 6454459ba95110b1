"""Files that are torn, flipped, gone or locked away: what is lost is named, made again, and nothing else is."""

import os
import shutil

import pytest
from fault_runs import lines, load, log, play, records, start, table, write

from robustsuite.storage.store import Store


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with everything that it keeps."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAULTS", str(folder))
        patch.setenv("ROBUSTSUITE_CACHE", str(folder / "cache"))
        play(folder / "run", cached=True)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the run, without the cache from which its cells could be recalled."""
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def cache(finished, tmp_path):
    shutil.copytree(finished / "cache", tmp_path / "cache", dirs_exist_ok=True)
    return Store(tmp_path / "cache")


def times(folder):
    return {line["key"]: line["seconds"] for line in lines(folder)}


def tear_the_last(content):
    return content[:-40], 1


def tear_one_in_the_middle(content):
    rows = content.splitlines(keepends=True)
    rows[3] = rows[3][:100] + b"\n"
    return b"".join(rows), 1


def leave_zeros(content):
    """What a file system may leave where the power went: the length is there, the content is not."""
    return content[:-300] + b"\0" * 300, 1


def fill_a_block_with_zeros(content):
    return content + b"\0" * 4096, 0


def append_garbage(content):
    return content + b'\xff\xfe{"key": "torn\n{}\n[1]\nnull\n"text"\n', 0


def repeat_all(content):
    """Lines that stand there twice count once."""
    return content + content, 0


def forget_the_last_line_break(content):
    return content[:-1], 0


@pytest.mark.parametrize(
    "damage",
    [
        tear_the_last, tear_one_in_the_middle, leave_zeros, fill_a_block_with_zeros, append_garbage, repeat_all,
        forget_the_last_line_break,
    ],
)  # fmt: skip
def test_a_damaged_line_costs_its_cell_and_nothing_else(folder, straight, damage):
    before = times(folder)
    path = folder / "records.jsonl"
    content, lost = damage(path.read_bytes())
    path.write_bytes(content)
    outcome = play(folder, cached=False)
    assert (outcome.ran, outcome.reused) == (lost, len(straight) - lost)
    assert table(folder) == straight
    assert len(lines(folder)) == len(straight)
    assert sum(before[key] != seconds for key, seconds in times(folder).items()) == lost
    named = "is left out: it is" in log(folder)
    assert named == (damage not in (repeat_all, forget_the_last_line_break))
    assert ("were taken out, doubled or moved" in log(folder)) == (damage is repeat_all)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "remove"])
def test_a_damaged_sample_file_costs_its_cell(folder, straight, damage):
    record = next(r for r in records(folder) if r.attack == "pgd" and r.defense == "none")
    path = folder / record.samples
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes({"flip": content[:-1] + bytes([content[-1] ^ 1]), "cut": content[:-9], "empty": b""}[damage])
    outcome = play(folder, cached=False)
    assert (outcome.ran, outcome.reused) == (1, len(straight) - 1)
    assert "none x pgd is played again: expected" in log(folder)
    assert table(folder) == straight


def flip(path, share=0.6):
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("kind", ["models", "artefacts", "cells"])
@pytest.mark.parametrize("part", ["json", "safetensors"])
def test_a_flipped_byte_in_the_cache_is_found_named_and_made_again(cache, tmp_path, straight, kind, part):
    damaged = sorted((cache.root / kind).glob(f"*.{part}"))
    assert damaged
    for path in damaged:
        flip(path)
    kept = {path: path.read_bytes() for path in damaged}
    if kind != "cells":
        shutil.rmtree(cache.root / "cells")  # else nothing else is looked at
    outcome = play(tmp_path / "new", cached=True)
    assert table(tmp_path / "new") == straight
    named = [what for what in outcome.mishaps if "was damaged and is made again" in what]
    assert len(named) == len(damaged)
    assert all(str(cache.root / kind) in what for what in named)
    assert outcome.recalled == (len(straight) - _cells_with(part, straight) if kind == "cells" else 0)
    assert all(path.read_bytes() != content for path, content in kept.items())
    assert cache.verify() == []


def _cells_with(part, straight):
    """How many cells have such a file."""
    return len(straight) if part == "json" else sum(bool(row[-1]) for row in straight)


def test_flipped_weights_of_the_run_are_trained_again_and_named(folder, straight):
    weights = sorted((folder / "models").glob("*.safetensors"))
    for path in weights:
        flip(path)
    (folder / "records.jsonl").unlink()
    outcome = play(folder, cached=False)
    assert outcome.ran == len(straight)
    assert table(folder) == straight
    assert sum("models" in what and "was damaged and is made again" in what for what in outcome.mishaps) == len(weights)


def test_a_file_in_place_of_the_cache_costs_the_cache_only(tmp_path, straight, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / "file"))
    outcome = play(tmp_path / "run", cached=True)
    assert table(tmp_path / "run") == straight
    named = [what for what in outcome.mishaps if "the run goes on without it" in what]
    assert named
    assert len(named) == len(set(named)) <= 3  # each kind once, not each entry
    assert log(tmp_path / "run").count("goes on without it") == len(named)
    assert (tmp_path / "file").read_text() == "no folder"


@pytest.mark.slow
def test_a_cache_that_may_only_be_read_is_read(tmp_path, straight, finished):
    """By somebody for whom permissions count; it lies over its limit, too."""
    cache = tmp_path / "cache"
    shutil.copytree(finished / "cache", cache)
    shutil.rmtree(cache / "cells")
    places = [cache, *cache.rglob("*")]
    for path in places:
        path.chmod(0o555 if path.is_dir() else 0o444)
    os.environ["ROBUSTSUITE_CACHE_LIMIT"] = "1KB"
    try:
        process = start(tmp_path / "run", write(tmp_path), "--workers", "1", preexec_fn=obey_permissions)
        _, said = process.communicate(timeout=200)
    finally:
        del os.environ["ROBUSTSUITE_CACHE_LIMIT"]
        for path in places:
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert process.returncode == 0, said
    assert table(tmp_path / "run") == straight
    assert "could not keep cells: Permission denied; the run goes on without it" in said
    assert "could not be trimmed" in said
    kept = {path.relative_to(cache) for path in places if path.is_file()}
    assert {path.relative_to(cache) for path in cache.rglob("*") if path.is_file()} == kept
    # The weights came from there: nothing was trained.
    assert all(path.read_bytes() == (cache / "models" / path.name).read_bytes() for path in _weights(tmp_path / "run"))


def obey_permissions():
    """Take from root, on the way to another program, the right to write where nobody may."""
    import ctypes

    drop, write_anywhere, read_anywhere = 24, 1, 2
    for capability in (write_anywhere, read_anywhere):
        ctypes.CDLL(None).prctl(drop, capability)


def _weights(folder):
    found = sorted((folder / "models").glob("*.safetensors"))
    assert found
    return found


def test_a_folder_in_which_nothing_can_be_written_is_refused(tmp_path):
    from robustsuite.core.errors import RequestError

    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="expected a folder that can be written, got out="):
        play(tmp_path / "file" / "run")


def test_a_folder_of_another_suite_keeps_what_it_held(folder, straight):
    outcome = play(folder, "seed=1", cached=False)
    assert outcome.reused == 0
    from robustsuite.evaluation import record_files

    aside = record_files.read(folder / "records.old.jsonl")
    assert sorted(record.key for record in aside) == sorted(row[0] for row in straight)
    assert len(load().attacks) == 4


@pytest.mark.parametrize("damage", ["facts", "weights", "gone"])
def test_weights_of_a_finished_run_are_looked_at_and_made_again(folder, straight, damage):
    """No cell needs them any more, but the folder keeps them for whoever uses the models."""
    kept = {path.name: path.read_bytes() for path in _weights(folder)}
    path = _weights(folder)[0]
    if damage == "gone":
        path.unlink()
    else:
        flip(path.with_suffix(".json") if damage == "facts" else path)
    outcome = play(folder, cached=False)
    assert (outcome.ran, outcome.reused) == (0, len(straight))
    assert f"models/{path.stem}" in log(folder)
    assert table(folder) == straight
    assert {path.name: path.read_bytes() for path in _weights(folder)} == kept
