"""Results that can be made again, kept by the key of what determines them: whole, checked, and within a size limit."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from filelock import FileLock

from robustsuite.core import checks
from robustsuite.core.canonical import canonical_json
from robustsuite.storage import seals
from robustsuite.storage.files import write_atomically
from robustsuite.storage.places import user_cache

FOLDER: Final = "ROBUSTSUITE_CACHE"
LIMIT: Final = "ROBUSTSUITE_CACHE_LIMIT"
_LIMIT: Final = "5GB"
_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class Kept(NamedTuple):
    """One entry: facts as JSON values, and what goes with them."""

    facts: dict[str, Any]
    payload: bytes


class Listed(NamedTuple):
    """One entry as it lies on disk: kind, key, bytes, and when it was last used (seconds since the epoch)."""

    kind: str
    key: str
    size: int
    used: float


@dataclass
class Store:
    """Entries `<root>/<kind>/<key>.json` with their payload beside them.

    Args:
        root: Where entries lie.
        limit: Most bytes that `trim` leaves; None for no limit.
        since: Entries made before this time (seconds since the epoch) count as absent.
        suffix: How names of payloads end.
        beside: Digest of the strangers' code in the processes that put entries here, empty for none: what was made
            beside other code counts as absent, and takes no place of what was made beside none. Where it is None, all
            entries count.

    Guarantees:
        `get` hands out only what digests confirm: what is torn or was changed is removed, noted, and made again. Two
        processes may use one folder.
    """

    root: Path
    limit: int | None = None
    since: float = 0.0
    suffix: str = ".safetensors"
    beside: str | None = None
    notes: list[str] = field(default_factory=list)

    def get(self, kind: str, key: str) -> Kept | None:
        """The entry, where there is one and it is whole."""
        facts_file, payload_file = self._files(kind, key)
        try:
            text = seals.unsealed(facts_file.read_bytes())
            told = {} if text is None else json.loads(text)
            if text is not None and (told["made"] < self.since or not self._trusts(told["beside"])):
                return None
            payload = payload_file.read_bytes() if told.get("payload") else b""
        except (FileNotFoundError, NotADirectoryError):
            if facts_file.is_file():  # else somebody has just removed it whole
                self._refuse(kind, key, "its content is gone")
            return None
        except OSError as error:
            self.notes.append(f"the cache entry {facts_file} could not be read: {error}; it is made again")
            return None
        except (ValueError, TypeError, KeyError) as error:
            self._refuse(kind, key, f"{type(error).__name__}: {error}")
            return None
        if text is None:
            self._refuse(kind, key, "its facts are not those that were written")
            return None
        if told["payload"] and told["payload"] != _digest(payload):
            self._refuse(kind, key, "its content is not what was written")
            return None
        _touch(facts_file)
        return Kept(told["facts"], payload)

    def has(self, kind: str, key: str) -> bool:
        """Whether there is an entry, without reading its payload."""
        facts_file = self._files(kind, key)[0]
        try:
            there = facts_file.stat().st_size > 0 and self.since == 0.0
            return there and (self.beside is None or self._trusts(json.loads(facts_file.read_bytes())["beside"]))
        except (OSError, ValueError, TypeError, KeyError):
            return False

    def _trusts(self, beside: str) -> bool:
        return self.beside is None or beside in ("", self.beside)

    def put(self, kind: str, key: str, facts: Mapping[str, Any], payload: bytes = b"") -> None:
        """Keep an entry; one of the same key is replaced. Facts are written last: they are the sign of a whole one."""
        facts_file, payload_file = self._files(kind, key)
        if self.beside and replace(self, beside="", since=0.0, notes=[]).get(kind, key) is not None:
            return
        if payload:
            write_atomically(payload_file, payload, durable=False)
        about = {"beside": self.beside or "", "payload": _digest(payload) if payload else "", "made": time.time()}
        text = seals.sealed(f'{{"facts":{canonical_json(facts)},{json.dumps(about)[1:]}')
        write_atomically(facts_file, text.encode(), durable=False)

    def offer(self, kind: str, key: str, facts: Mapping[str, Any], payload: bytes = b"") -> None:
        """As `put`, where a disk that is full or read-only costs only the entry, and a note."""
        try:
            self.put(kind, key, facts, payload)
        except OSError as error:
            reason = error.strerror or str(error)
            self.notes.append(f"the cache {self.root} could not keep {kind}: {reason}; the run goes on without it")

    def told(self) -> tuple[str, ...]:
        """The notes since this was asked last."""
        notes = tuple(self.notes)
        self.notes.clear()
        return notes

    def lock(self, kind: str, key: str) -> FileLock:
        """Held while an entry is made, so that two processes that need it make it once."""
        folder = self.root / "locks"
        with contextlib.suppress(OSError):  # acquiring says why
            folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{kind}-{key}.lock")

    def entries(self) -> Iterator[Listed]:
        """Every entry; what disappears meanwhile is passed over."""
        for facts_file in sorted(self.root.glob("*/*.json")):
            try:
                seen = facts_file.stat()
                payload = facts_file.with_suffix(self.suffix)
                size = seen.st_size + (payload.stat().st_size if payload.is_file() else 0)
            except OSError:
                continue
            yield Listed(facts_file.parent.name, facts_file.stem, size, seen.st_mtime)

    def trim(self, limit: int | None = None) -> list[Listed]:
        """Remove what was used longest ago until the rest is within the limit; returns what was removed."""
        most = self.limit if limit is None else limit
        if most is None:
            return []
        found = sorted(self.entries(), key=lambda entry: entry.used)
        total, removed = sum(entry.size for entry in found), []
        for entry in found:
            if total <= most:
                break
            try:
                self.remove(entry.kind, entry.key)
            except OSError as error:
                self.notes.append(f"the cache {self.root} could not be trimmed: {error}")
                break
            total -= entry.size
            removed.append(entry)
        return removed

    def remove(self, kind: str, key: str) -> None:
        """Forget one entry."""
        for file in self._files(kind, key):
            file.unlink(missing_ok=True)

    def verify(self, kind: str = "") -> list[Listed]:
        """Read every entry (of this kind) and remove those that are not whole; returns them."""
        wanted = (entry for entry in self.entries() if kind in ("", entry.kind))
        return [entry for entry in wanted if self.get(entry.kind, entry.key) is None]

    def _files(self, kind: str, key: str) -> tuple[Path, Path]:
        facts = self.root / kind / f"{key}.json"
        return facts, facts.with_suffix(self.suffix)

    def _refuse(self, kind: str, key: str, reason: str) -> None:
        with contextlib.suppress(OSError):  # it is replaced when it is made again
            self.remove(kind, key)
        self.notes.append(f"{self.root / kind / key} was damaged and is made again ({reason})")


def cache_folder() -> Path:
    """Where entries are shared between runs: `$ROBUSTSUITE_CACHE`, else below the user's cache."""
    chosen = os.environ.get(FOLDER)
    return Path(chosen).expanduser().resolve() if chosen else user_cache() / "robustsuite" / "results"


def cache() -> Store:
    """The store that runs share, with the limit of `$ROBUSTSUITE_CACHE_LIMIT` (5 GB).

    Raises:
        RequestError: A limit that is no size.
    """
    return Store(cache_folder(), size_of(LIMIT, os.environ.get(LIMIT) or _LIMIT))


def size_of(name: str, text: str) -> int:
    """Bytes that a text such as `500MB` or `2.5G` means.

    Raises:
        RequestError: No size.

    Example:
        >>> size_of("limit", "2.5GB")
        2500000000
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip().upper())
    if found is None:
        raise checks.fail("a size such as 500MB or 2.5GB", name, text, "write a number with KB, MB, GB or TB")
    return int(float(found[1]) * _UNITS[found[2]])


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _touch(path: Path) -> None:
    with contextlib.suppress(OSError):  # a cache may be read-only; then its order of use stands still
        os.utime(path)
