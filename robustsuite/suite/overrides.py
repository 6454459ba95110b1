"""`a.b=c`: values that the command line sets over those of a suite file."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from robustsuite.core.errors import RequestError
from robustsuite.suite.problems import nearest, shown
from robustsuite.suite.yaml_lines import Path, parse


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], dict[Path, str]]:
    """Set each `a.b=c` in a copy of `values`.

    List items are named by their index, or by their label or plug-in's name, and the plug-in's options may follow:
    `defenses.1.dp-sgd.epsilon=2`, `defenses.1.epsilon=2` and `defenses.dp-sgd.epsilon=2` mean the same.

    Returns:
        The new values, and for each path that was set the option as it was typed.

    Raises:
        RequestError: No `=`, no YAML, or a list item that is not there.
    """
    changed = copy.deepcopy(dict(values))
    typed: dict[Path, str] = {}
    for override in overrides:
        option = f"--set {override}"
        key, equals, text = override.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise RequestError(f"expected key.path=value, got {option!r}; write it like --set training.epochs=3")
        value = parse(text, option).value
        try:
            typed[_set(changed, parts, value)] = option
        except RequestError as error:
            raise RequestError(f"{option}: {error}") from error
    return changed, typed


def _set(holder: Any, parts: Sequence[str], value: Any) -> Path:
    """Set the value below `holder`, and return its path."""
    head, *rest = parts
    if not isinstance(holder, (dict, list)):
        raise RequestError(f"expected a mapping or a list to set {head!r} in, got {shown(holder)}; shorten the path")
    key: Any = _index(holder, head) if isinstance(holder, list) else head
    if not rest:
        holder[key] = value
        return (key,)
    if isinstance(holder, list):
        item = {holder[key]: {}} if isinstance(holder[key], str) else holder[key]
        if isinstance(item, dict) and len(item) == 1 and rest[0] not in item:
            rest = [str(next(iter(item))), *rest]
    else:
        item = {} if holder.get(key) is None else holder[key]
        item = {"name": item} if isinstance(item, str) else item  # `model: cnn` is short for `model: {name: cnn}`
    holder[key] = item
    return (key, *_set(item, rest, value))


def _index(items: list[Any], part: str) -> int:
    if part.isdecimal() and int(part) < len(items):
        return int(part)
    names = [_name(item) for item in items]
    found = [index for index, name in enumerate(names) if name == part]
    if len(found) == 1:
        return found[0]
    if found:
        raise RequestError(f"expected one item called {part!r}, got items {found}; name it by its index")
    hint = nearest(part, [name for name in names if name])
    raise RequestError(f"expected an index in [0, {len(items) - 1}] or the name of an item, got {part!r}; {hint}")


def _name(item: Any) -> str:
    """The label of a listed plug-in, or its name."""
    if isinstance(item, dict) and item:
        name, options = next(iter(item.items()))
        label = options.get("label") if isinstance(options, dict) else None
        return str(name if label is None else label)
    return item if isinstance(item, str) else ""
