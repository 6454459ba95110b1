"""Where SARIF's results point: the line of the suite that asked for a gate or an attack."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from robustsuite.core.errors import RequestError
from robustsuite.core.gate import Gate
from robustsuite.report.details import shown_folder
from robustsuite.suite import yaml_lines
from robustsuite.suite.gates import read_gates

Json = dict[str, Any]
_FILES: Final = ("suite.yaml", "gates.json", "records.jsonl")


class Places:
    """Locations in a run's folder.

    Args:
        folder: The run's folder; pointed at is the first of `suite.yaml`, `gates.json` and `records.jsonl` in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = next((folder / name for name in _FILES if (folder / name).is_file()), folder / _FILES[-1])

    def artifact(self) -> Json:
        """The file that everything points at."""
        there = self._file.is_file()
        content = self._file.read_bytes() if there else b""
        facts = {"length": len(content), "hashes": {"sha-256": hashlib.sha256(content).hexdigest()}} if there else {}
        return {"location": {"uri": self._uri, "uriBaseId": "%SRCROOT%"}, "roles": ["analysisTarget"], **facts}

    def gate(self, gate: Gate | None, suite: str) -> Json:
        """Where a gate was asked for."""
        line = 1 if gate is None else self._line_of_gate(gate)
        name = "gate" if gate is None else str(gate)
        return self._location(line, name, f"{suite}/gates/{name}")

    def attack(self, attack: str, defense: str, suite: str) -> Json:
        """Where an attack was asked for, and which defence it met."""
        line = self._lines_of_attacks.get(attack, 1)
        return self._location(line, f"{defense} x {attack}", f"{suite}/{defense}/{attack}")

    def _location(self, line: int, name: str, full: str) -> Json:
        where = {"uri": self._uri, "uriBaseId": "%SRCROOT%", "index": 0}
        return {
            "physicalLocation": {"artifactLocation": where, "region": {"startLine": line}},
            "logicalLocations": [{"name": name, "fullyQualifiedName": full, "kind": "object"}],
        }

    @cached_property
    def _uri(self) -> str:
        """As seen from the working folder, which is the repository in continuous integration."""
        return quote((shown_folder(self.folder.absolute()) / self._file.name).as_posix())

    @cached_property
    def _document(self) -> yaml_lines.Document:
        if self._file.suffix == ".jsonl":
            return yaml_lines.Document(None)
        try:
            return yaml_lines.parse(self._file.read_text(encoding="utf-8"), self._file.name)
        except (OSError, UnicodeDecodeError, RequestError):
            return yaml_lines.Document(None)

    def _listed(self, key: str) -> list[Any]:
        value = self._document.value
        found = value.get(key, []) if isinstance(value, dict) else value if key == "gates" else []
        return found if isinstance(found, list) else []

    def _line_of_gate(self, gate: Gate) -> int:
        prefix = ("gates",) if isinstance(self._document.value, dict) else ()
        for index, item in enumerate(self._listed("gates")):
            (written,) = read_gates([item])
            same = (written.metric, written.at_least, written.at_most) == (gate.metric, gate.at_least, gate.at_most)
            if same and written.defense in ("", gate.defense) and written.attack in ("", gate.attack):
                return self._document.line((*prefix, index))
        return 1

    @cached_property
    def _lines_of_attacks(self) -> dict[str, int]:
        """Label -> line."""
        found = {}
        for index, item in enumerate(self._listed("attacks")):
            name, options = next(iter(item.items())) if isinstance(item, dict) and item else (item, None)
            label = options.get("label", name) if isinstance(options, dict) else name
            found[str(label)] = self._document.line(("attacks", index))
        return found
