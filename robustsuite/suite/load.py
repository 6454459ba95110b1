"""The suite file: read, with what the command line sets over it, and validated as a whole."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from robustsuite.core.errors import RequestError
from robustsuite.plugins import registry
from robustsuite.storage.files import absent
from robustsuite.suite import yaml_lines
from robustsuite.suite.builtin import builtin_suites, builtin_text
from robustsuite.suite.overrides import apply_overrides
from robustsuite.suite.problems import Origin, Problem, Problems, from_pydantic, shown
from robustsuite.suite.schema import Suite
from robustsuite.suite.validation import inconsistencies

DEFAULT: Final = "quickstart"


def load_suite(source: str | Path | None = None, overrides: Sequence[str] = (), plugins: Sequence[str] = ()) -> Suite:
    """Read and validate a suite.

    Args:
        source: A path, the name of a built-in suite, or None for `quickstart`.
        overrides: `a.b=c` each, the value in YAML; list items by index, label or name.
        plugins: Plug-in files that the user typed, beside those of the suite.

    Raises:
        RequestError: Everything that is wrong, each with file, line, key, value and the way out.
    """
    name, text = _read_source(source)
    document = yaml_lines.parse(text, name)
    if not isinstance(document.value, dict):
        raise RequestError(f"{name}:1: expected a mapping of keys, got {shown(document.value)}; start with `name: …`")
    values, typed = apply_overrides(document.value, overrides)
    origin = Origin(name, document, typed)
    problems = Problems(
        Problem(path, f"expected each key once, got {path[-1]} again on line {line}; remove one of them")
        for path, line in document.duplicates
    )
    values["plugins"] = _load_plugins(values.get("plugins", []), typed, plugins, problems)
    try:
        suite = Suite.model_validate(values)
    except ValidationError as error:
        raise origin.refusal([*problems, *from_pydantic(error, Suite)]) from None
    problems = problems or inconsistencies(suite)
    if problems:
        raise origin.refusal(problems)
    suite._origin = origin
    return suite


def _read_source(source: str | Path | None) -> tuple[str, str]:
    """What to call the source, and its text."""
    asked = str(source if source is not None else DEFAULT)
    builtin = [suite.name for suite in builtin_suites()]
    path = Path(asked).expanduser()
    if path.is_dir() and (path / "suite.yaml").is_file():
        path = path / "suite.yaml"
    if path.is_file():
        try:
            return str(path), path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"expected a readable YAML file, got suite={asked!r}; {error}") from error
    if asked in builtin:
        return f"{asked}.yaml", builtin_text(asked)
    near_by = sorted(str(p) for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
    near = difflib.get_close_matches(asked, [*builtin, *near_by], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"built-in suites: {', '.join(builtin)}"
    tried = f"{absent(asked)}; " if path.suffix or len(path.parts) > 1 else ""
    raise RequestError(f"expected a suite file or the name of a built-in suite, got suite={asked!r}; {tried}{hint}")


def _load_plugins(
    listed: Any, typed: Mapping[yaml_lines.Path, str], extra: Sequence[str], problems: Problems
) -> list[str]:
    """Import the plug-in files before anything asks for their names; code outside the working folder must be typed."""
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
        message = f"expected a list of files, got plugins={shown(listed)}; write [file.py]"
        problems.append(Problem(("plugins",), message))
        return []
    here = Path.cwd().resolve()
    files = [*listed, *(item for item in extra if item not in listed)]
    for index, item in enumerate(files):
        free = item in extra or any(path[:1] == ("plugins",) for path in typed)
        with problems.below("plugins", index):
            if not free and not (here / item).resolve().is_relative_to(here):
                raise RequestError(
                    f"expected a file below the working folder, got plugins={item!r}; to run its code type "
                    f"--plugin {item}"
                )
            registry.load_file(item)
    return files
