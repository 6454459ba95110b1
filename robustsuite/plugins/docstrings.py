"""Google-style docstrings taken apart, for what shows plug-ins to people."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field
from typing import Any, Final

_SECTION: Final = re.compile(r"^(Args|Returns|Raises|References|Guarantees|Example|Examples|Notes?|Yields):\s*$")
_ARGUMENT: Final = re.compile(r"^(\*{0,2}[A-Za-z_]\w*)(?:\s*\([^)]*\))?:\s*(.*)$")


@dataclass(frozen=True)
class Docstring:
    """What a docstring says.

    Args:
        description: Everything before the first section.
        arguments: Parameter -> its description, on one line.
        sections: Section -> its text, but for the arguments.
    """

    description: str = ""
    arguments: dict[str, str] = field(default_factory=dict)
    sections: dict[str, str] = field(default_factory=dict)


def parse_docstring(subject: Any) -> Docstring:
    """The docstring of a class or function."""
    blocks: dict[str, list[str]] = {"": []}
    current = ""
    for line in (inspect.getdoc(subject) or "").splitlines():
        match = _SECTION.match(line)
        if match:
            current = match.group(1)
            blocks[current] = []
        else:
            blocks[current].append(line)
    texts = {name: inspect.cleandoc("\n".join(lines)) for name, lines in blocks.items()}
    description = texts.pop("")
    return Docstring(_joined(description), _arguments(texts.pop("Args", "")), {k: _joined(v) for k, v in texts.items()})


def _joined(text: str) -> str:
    """Paragraphs on one line each."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip())


def _arguments(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    current = ""
    for line in text.splitlines():
        match = None if line.startswith((" ", "\t")) else _ARGUMENT.match(line)
        if match:
            current = match.group(1).lstrip("*")
            found[current] = match.group(2).strip()
        elif current:
            found[current] = f"{found[current]} {line.strip()}".strip()
    return found
