"""YAML with line numbers: plain values as `yaml.safe_load` gives them, and the line of every key and item."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from robustsuite.core.errors import RequestError

Path = tuple[str | int, ...]

_MOST_NODES: Final = 100_000  # aliases that expand beyond this are an attack on the reader, not a suite
_FLOAT: Final = re.compile(
    r"""^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?(?:[0-9][0-9_]*)[eE][-+]?[0-9]+
    |[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)


_INT: Final = re.compile(r"^[-+]?(?:0|[1-9](?:_?[0-9])*|0b[01]+(?:_[01]+)*|0o[0-7]+|0x[0-9a-fA-F]+(?:_[0-9a-fA-F]+)*)$")
_DOUBTFUL: Final = re.compile(r"^[-+]?(?:[0-9][0-9_]*)$")  # what `_INT`, asked before, does not match of these
_DOUBT: Final = "!doubtful"


class _Loader(yaml.SafeLoader):
    """`SafeLoader` that reads numbers as people write them, and leaves dates and 1:30 as text."""

    def construct_doubtful(self, node: yaml.ScalarNode) -> Any:
        """Refuse 010, which is 8 in YAML 1.1 and 10 to most who write it."""
        digits = node.value.replace("_", "")
        told = f"got {node.value}; write {int(digits)}, or quote it where it is text"
        raise RequestError(f"{self.name}:{node.start_mark.line + 1}: expected a number that is read one way, {told}")


class _Dumper(yaml.SafeDumper):
    """`SafeDumper` that also quotes text such as 1e-3 or 010, which `parse` would not read as text."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # yaml asks per value
        """Write repeated values out."""
        return True


_DROPPED: Final = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _DROPPED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
    _class.add_implicit_resolver(_DOUBT, _DOUBTFUL, list("-+0123456789"))
_Loader.add_constructor(_DOUBT, _Loader.construct_doubtful)


@dataclass(frozen=True)
class Document:
    """What a YAML text says and where it says it.

    Args:
        value: Plain values.
        lines: Key path -> line, counted from 1.
        duplicates: Paths of keys that stand twice in one mapping, with the line of the second.
    """

    value: Any
    lines: Mapping[Path, int] = field(default_factory=dict)
    duplicates: tuple[tuple[Path, int], ...] = ()

    def line(self, path: Path) -> int:
        """The line of this path, or of the nearest enclosing one that the text has."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return 1


def parse(text: str, name: str) -> Document:
    """Read one YAML document.

    Args:
        text: The document.
        name: What to call it in errors, usually the file's name.

    Raises:
        RequestError: The text is no YAML, names a Python object, or expands without end; the message has the line.
    """
    try:
        loader = _Loader(text)
        loader.name = name
        root = loader.get_single_node()
        if root is None:
            return Document(None)
        lines: dict[Path, int] = {}
        duplicates: list[tuple[Path, int]] = []
        for count, (path, line, repeated) in enumerate(_walk(root, ())):
            if count > _MOST_NODES:
                raise RequestError(
                    f"{name}: expected at most {_MOST_NODES} values, got more; write aliases (*name) out or remove them"
                )
            if repeated:
                duplicates.append((path, line))
            lines.setdefault(path, line)
        return Document(loader.construct_document(root), lines, tuple(duplicates))
    except RequestError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = 1 if mark is None else mark.line + 1
        raise RequestError(f"{name}:{line}: expected YAML, got {error.problem or error}; mend that line") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise RequestError(f"{name}: expected YAML, got {type(error).__name__}: {error}; mend the file") from error


def dump(value: Any) -> str:
    """YAML that `parse` reads back as the same value; mappings keep their order."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110))


def _walk(node: yaml.Node, path: Path) -> Iterator[tuple[Path, int, bool]]:
    """Every value below `node`: its path, its line, and whether its key was there before."""
    yield path, node.start_mark.line + 1, False
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _walk(item, (*path, index))
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, item in node.value:
            name = str(key.value)
            below = (*path, name)
            yield below, key.start_mark.line + 1, name in seen
            seen.add(name)
            yield from _walk(item, below)
