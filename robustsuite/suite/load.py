"""The suite file: read, with what the command line sets over it, and validated as a whole."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from robustsuite.core.errors import RequestError
from robustsuite.plugins.trust import Trust
from robustsuite.storage.files import absent
from robustsuite.suite import yaml_lines
from robustsuite.suite.builtin import builtin_suites, builtin_text
from robustsuite.suite.overrides import apply_overrides
from robustsuite.suite.problems import Origin, Problem, Problems, from_pydantic, shown
from robustsuite.suite.schema import Suite
from robustsuite.suite.strangers import load_plugins, look_at_factories, typed_texts, without_unknown
from robustsuite.suite.validation import inconsistencies

DEFAULT: Final = "quickstart"


def load_suite(
    source: str | Path | None = None,
    overrides: Sequence[str] = (),
    plugins: Sequence[str] = (),
    trust: Trust | None = None,
) -> Suite:
    """Read and validate a suite.

    A suite is data. Of what it names, plug-in files and factories, only that runs which `trust` allows.

    Args:
        source: A path, the name of a built-in suite, or None for `quickstart`.
        overrides: `a.b=c` each, the value in YAML; list items by index, label or name.
        plugins: Plug-in files that the user typed, beside those of the suite.
        trust: Which code it may name; None for that of the working folder. What stands in `overrides` and `plugins`
            was typed, and is trusted too.

    Raises:
        RequestError: Everything that is wrong, each with file, line, key, value and the way out.
    """
    name, text = _read_source(source)
    document = yaml_lines.parse(text, name)
    if not isinstance(document.value, dict):
        raise RequestError(f"{name}:1: expected a mapping of keys, got {shown(document.value)}; start with `name: …`")
    values, typed = apply_overrides(document.value, overrides)
    trust = Trust(folder=Path.cwd()) if trust is None else trust
    files = [file for file in plugins if file.endswith(".py")]
    texts = frozenset([*plugins, *typed_texts(values, typed)])
    trust = replace(trust, named=(*trust.named, *files), typed=trust.typed | texts)
    origin = Origin(name, document, typed, trust)
    problems = Problems(
        Problem(path, f"expected each key once, got {path[-1]} again on line {line}; remove one of them")
        for path, line in document.duplicates
    )
    values["plugins"] = load_plugins(values.get("plugins", []), plugins, origin, problems)
    with trust.held():
        look_at_factories(values, origin, problems)
        return _validated(values, origin, problems)


def _validated(values: dict[str, Any], origin: Origin, problems: Problems) -> Suite:
    suite, found = None, Problems()
    try:
        suite = Suite.model_validate(values)
        found = found if problems else origin.sift(origin.as_written(inconsistencies(suite)))
    except ValidationError as error:
        found = origin.as_written(from_pydantic(error, Suite))
    left = without_unknown(values, found, origin)
    if left is not None:
        return _validated(left, origin, problems)
    if suite is None or problems or found:
        raise origin.refusal([*problems, *found])
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
