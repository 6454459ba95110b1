"""The code that a suite names, plug-in files and factories: loaded where it is trusted, else refused or left out."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from robustsuite.core.errors import UnknownPluginError, UntrustedCodeError
from robustsuite.plugins import registry
from robustsuite.plugins.loading import load_factory
from robustsuite.suite.problems import Origin, Problem, Problems, shown
from robustsuite.suite.yaml_lines import Path

_FACTORIES: Final = (("model", "factory"), ("dataset", "factory"), ("training", "factory"))


def typed_texts(values: Any, paths: Iterable[Path]) -> Iterator[str]:
    """Every text of a suite that the user typed as a value of its own."""
    for path in paths:
        value = values
        for step in path:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):  # typed over by a later option
                value = None
        yield from (text for _, text in _texts(value))


def load_plugins(listed: Any, extra: Sequence[str], origin: Origin, problems: Problems) -> list[str]:
    """Import the plug-in files before anything asks for their names.

    Args:
        listed: What the suite says.
        extra: Files that the user typed.
        origin: Which files may run; one that a dry run leaves out is noted there.
        problems: What is refused is added here.

    Returns:
        The files that were asked for.
    """
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
        message = f"expected a list of files, got plugins={shown(listed)}; write [file.py]"
        problems.append(Problem(("plugins",), message))
        return []
    files = [*listed, *(item for item in extra if item not in listed)]
    found = Problems()
    for index, item in enumerate(files):
        with found.below("plugins", index):
            _allowed(item, origin)
            registry.load_file(item)
    problems.extend(origin.sift(found))
    return files


def _allowed(item: str, origin: Origin) -> None:
    """Refuse a plug-in file that is not trusted.

    Raises:
        UntrustedCodeError: The file, and what to type to run it.
    """
    trust = origin.trust
    if trust is not None and item not in trust.typed and not trust.allows_file(item):
        where = "that is trusted" if trust.folder is None else "below the working folder"
        remedy = f"a suite is data: to run its code type --plugin {item}"
        raise UntrustedCodeError(f"expected a file {where}, got plugins={item!r}; {remedy}")


def look_at_factories(values: Mapping[str, Any], origin: Origin, problems: Problems) -> None:
    """Load every factory that a suite names, so that one that is not there, or not trusted, is known at once.

    Args:
        values: The suite as the file writes it.
        origin: One that a dry run leaves out is noted there.
        problems: What is refused is added here.
    """
    found = Problems()
    for path, target in _texts(values):
        if path[-2:] in _FACTORIES:
            with found.below(*path):
                load_factory(target)
    problems.extend(origin.sift(found))


def _texts(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Every text, however deep, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index))


def without_unknown(values: Mapping[str, Any], problems: Sequence[Problem], origin: Origin) -> dict[str, Any] | None:
    """The suite without attacks and defences that hang on code which a dry run left out, and without their gates.

    Args:
        values: The suite as the file writes it.
        problems: What is wrong with it.
        origin: What is left out is noted there.

    Returns:
        The rest; None where nothing that is wrong hangs on code that was left out.
    """
    skipped = any(problem.path[:1] == ("plugins",) for problem in origin.unchecked)
    uses = [p for p in problems if p.path[:1] in (("attacks",), ("defenses",)) and len(p.path) > 1]
    unknown = [p for p in uses if skipped and p.kind is UnknownPluginError]
    unknown += [p for p in uses if origin.defers and p.kind is UntrustedCodeError]
    if not unknown:
        return None
    origin.unchecked.extend(unknown)
    left = copy.deepcopy(dict(values))
    gone = set()
    for key, index in sorted({(str(p.path[0]), int(p.path[1])) for p in unknown}, reverse=True):
        before = origin.gone.setdefault(key, [])
        gone |= _labels(left[key].pop(index - sum(other < index for other in before)))
        before.append(index)
    if not left.get("defenses", ["none"]):
        del left["defenses"]  # the undefended model is planned then, as where none is named
    gates = left.get("gates")
    if isinstance(gates, list):
        about = [{gate.get("attack"), gate.get("defense")} if isinstance(gate, Mapping) else set() for gate in gates]
        left["gates"] = [gate for gate, names in zip(gates, about, strict=True) if not gone & names]
    return left


def _labels(item: Any) -> set[str]:
    """What gates may call one item of a list: its label, else its name, joined where several are composed."""
    labels = []
    for part in item if isinstance(item, list) else [item]:
        ((name, options),) = part.items() if isinstance(part, Mapping) else ((part, None),)
        labels.append(str((options or {}).get("label", name)))
    return {"+".join(labels)}
