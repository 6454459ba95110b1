"""Files of records: one JSON line a judged cell, and a per-sample file beside it whose digest the line holds.

Each line ends with a digest of itself (`storage.seals`), and names that of the line before it; the first names that of
the `suite.yaml` beside it. A line that was changed is left out, and where lines were taken out, doubled or moved, the
chain says so. Lines that were cut off at the end cannot be seen by it: so ends a run that was interrupted, and
`suite.yaml` tells what it planned. All this finds accidents and careless edits; who computes the digests again is not
found.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Final

from robustsuite.core.errors import RequestError
from robustsuite.evaluation.old_records import relabelled, swept
from robustsuite.evaluation.records import EVALUATION, FINISHED, RADIUS, Record
from robustsuite.storage import seals
from robustsuite.storage.files import anchor, storing, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

    from robustsuite.core.metric import Payload

AFTER: Final = "after"
"""In a line: the digest of the line before it."""
_SUITE: Final = "suite.yaml"
_TAIL: Final = 4096
_SEALED: Final = 4


def append(path: Path, record: Record) -> None:
    """Append one whole line and wait for the disk; a torn last line of an earlier crash is closed first.

    Raises:
        StorageError: The disk refuses it; the file is as it was.
    """
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            line = _line(record, _last(file, size) or _root(path)) + b"\n"
            if size > 0:
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else b"\n" + line
            try:
                _write(file, line)
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
    if size == 0:
        anchor(path.parent)


def write(path: Path, records: Iterable[Record]) -> None:
    """Write a file of these records anew; readers see the old file or the new one.

    Raises:
        StorageError: The disk refuses it; the old file stands.
    """
    lines, after = [], _root(path)
    for record in records:
        lines.append(_line(record, after))
        after = seals.seal_of(lines[-1])
    write_atomically(path, b"".join(line + b"\n" for line in lines))


def _line(record: Record, after: str) -> bytes:
    return seals.sealed(f'{record.line()[:-1]},"{AFTER}":"{after}"}}').encode()


def _root(path: Path) -> str:
    """What the first line comes after: the suite beside it, by its digest; empty where there is none."""
    try:
        return seals.digest_of(path.with_name(_SUITE).read_bytes())
    except OSError:
        return ""


def _last(file: RawIOBase, size: int) -> str:
    """The digest of the last whole line, which nearly always ends the file."""
    for start in {max(0, size - _TAIL), 0}:
        file.seek(start)
        ends: list[bytes] = re.findall(rb',"seal":"([0-9a-f]{24})"\}\n', file.read() or b"")
        if ends:
            return ends[-1].decode()
    return ""


def _write(file: RawIOBase, content: bytes) -> None:
    """All of it: a disk that gets full takes a part first, and refuses the next."""
    while content:
        content = content[file.write(content) or 0 :]


@dataclass(frozen=True)
class Lines:
    """What a file of records holds.

    Args:
        records: All whole ones, in plan order; of two with one key the later one counts.
        damaged: A sentence for each line that is left out: whose it was, as far as that can be read, and why.
        moved: A sentence for each place at which a line does not follow the one after which it was written.
        strange: A sentence where the first line was not written beside the `suite.yaml` that is there.
        unsealed: How many lines carry no digest, as those from before version 4; edits of them are not seen.
    """

    records: tuple[Record, ...] = ()
    damaged: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    strange: str = ""
    unsealed: int = 0

    @property
    def faults(self) -> tuple[str, ...]:
        """All that is not as it was written, in a sentence each."""
        return (*self.damaged, *self.moved, *filter(None, [self.strange]))


def inspect(path: Path) -> Lines:
    """Read a file of records, and look whether it is as it was written."""
    found, damaged, moved, strange, bare = dict[str, Record](), list[str](), list[str](), "", 0
    before: str | None = None  # what the next line should come after, where that is known
    root = _root(path)
    for number, line in enumerate(filter(None, path.read_bytes().split(b"\n") if path.is_file() else ())):
        try:
            record, after = _opened(line)
        except ValueError as error:
            damaged.append(f"a line of {path}, {_whose(line)}, is left out: {error}")
            before = None
            continue
        here = f"{record.defense} x {record.attack}"
        if number == 0 and root and after and after != root:
            strange = f"{path} was not written beside the {_SUITE} that is there, or lines before {here} are gone"
        if before is not None and after is not None and after != before:
            moved.append(f"lines of {path} before {here} were taken out, doubled or moved")
        bare += after is None
        found[record.key] = record
        before = seals.seal_of(line) if after is not None else None
    ordered = sorted(found.values(), key=lambda record: record.order)
    return Lines(tuple(swept(relabelled(ordered, EVALUATION), RADIUS)), tuple(damaged), tuple(moved), strange, bare)


def read(path: Path) -> list[Record]:
    """All whole records of a file, in plan order."""
    return list(inspect(path).records)


def _opened(line: bytes) -> tuple[Record, str | None]:
    """The record of a line, and what it comes after; None of a line without digest.

    Raises:
        ValueError: It is not what was written.
    """
    text = seals.unsealed(line)
    try:
        values = json.loads(line)
    except ValueError:
        raise ValueError("it is torn") from None
    if text is None:
        version = values.get("version", 1) if isinstance(values, dict) else None
        if version is None or not isinstance(version, int) or version >= _SEALED or {seals.SEAL, AFTER} & set(values):
            raise ValueError("it is not what was written")
        return Record.parse(line.decode()), None
    return Record.parse(line.decode()), str(values.get(AFTER, ""))


def _whose(line: bytes) -> str:
    """Defence and attack of a line that is damaged, as far as they can be read."""
    text = line.decode(errors="replace")
    names = [re.search(rf'"{part}":\s?"([^"]*)"', text) for part in ("defense", "attack")]
    return " x ".join(name[1] if name is not None else "?" for name in names)


def samples_path(key: str) -> str:
    """Where the per-sample file of this record stands, below the run's folder."""
    return f"samples/{key}.safetensors"


def save_samples(folder: Path, key: str, columns: Mapping[str, Tensor]) -> tuple[str, str]:
    """Write per-sample columns and artefacts; returns the path below `folder` and the file's SHA-256."""
    from safetensors.torch import save

    # Cloned, because safetensors refuses columns that share memory.
    content = save({name: value.detach().cpu().contiguous().clone() for name, value in columns.items()})
    relative = samples_path(key)
    write_atomically(folder / relative, content)
    return relative, hashlib.sha256(content).hexdigest()


def load_samples(folder: Path, record: Record) -> dict[str, Tensor]:
    """Read a record's per-sample file, empty where it has none.

    Raises:
        RequestError: The file is missing or its digest is not the record's, or it lies outside the run's folder.
    """
    from safetensors.torch import load

    if not record.samples:
        return {}
    path = folder / record.samples
    if Path(record.samples).is_absolute() or ".." in Path(record.samples).parts:  # a stranger's, read or copied by us
        expected = f"the per-sample file of {record.key} inside its folder"
        raise RequestError(f"expected {expected}, got samples={record.samples!r}; run the suite again")
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = f"no {path}" if isinstance(error, FileNotFoundError) else f"{error}"
        raise RequestError(
            f"expected the per-sample file of {record.key}, got {reason}; run the suite again"
        ) from error
    if hashlib.sha256(content).hexdigest() != record.samples_digest:
        raise RequestError(
            f"expected {path} as its record describes it, got another digest; run the suite with --fresh"
        )
    return dict(load(content))


def payloads_of(record: Record, folder: Path | None) -> tuple[Payload, ...]:
    """The payloads that a record was given, whole again.

    Args:
        record: Whose.
        folder: The run's folder; None where nothing was kept, and then those without tensors are read.

    Raises:
        RequestError: The per-sample file is not what the record describes, or a description is no payload's.
    """
    from robustsuite.core.payloads import unpack

    tensors = load_samples(folder, record) if record.payloads and folder is not None else {}
    return tuple(unpack(described, tensors) for described in record.payloads)


def keys(records: Iterable[Record]) -> set[str]:
    """Keys of cells that need not run again: everything but errors."""
    return {record.key for record in records if record.status in FINISHED}
