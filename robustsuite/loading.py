"""Load what a user names as `package.module:function` or `path/to/file.py:function`, and call it with what it takes."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from robustsuite import checks
from robustsuite.files import absent, located


def load_factory(target: str) -> Callable[..., Any]:
    """Import the callable that `target` names.

    This runs the user's code. Only a target that the user typed or wrote into a suite may come here, never one that was
    read from a checkpoint or a record.

    Args:
        target: `package.module:function`, looked up on the import path and in the working folder, or
            `path/to/file.py:function`.

    Raises:
        RequestError: No such file, module or attribute, an import that fails, or an attribute that cannot be called.

    Example:
        >>> load_factory("math:sqrt")(9.0)
        3.0
    """
    place, colon, attribute = target.rpartition(":")
    if not colon or not place or not attribute:
        raise checks.fail("package.module:function or path/to/file.py:function", "factory", target, "name both parts")
    module = _from_file(place, target) if place.endswith(".py") else _from_package(place, target)
    found: Any = module
    for name in attribute.split("."):
        if not hasattr(found, name):
            near = difflib.get_close_matches(name, [n for n in dir(found) if not n.startswith("_")], n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(near)}?" if near else f"define {name} there"
            raise checks.fail(f"a function in {place}", "factory", target, f"it has no {name}; {hint}")
        found = getattr(found, name)
    if not callable(found):
        raise checks.fail("a callable", "factory", target, f"{attribute} is of type {type(found).__name__}")
    result: Callable[..., Any] = found
    return result


def call_factory(
    target: str, factory: Callable[..., Any], offered: Mapping[str, Any], options: Mapping[str, Any]
) -> Any:
    """Call a user's factory with its options and with those of the offered values that it names as parameters.

    Args:
        target: What the user wrote, for errors.
        factory: The callable.
        offered: Values that the suite knows (`classes`, `shape`, `seed` …), given only where asked for.
        options: Values that the user set; each must be a parameter.

    Raises:
        RequestError: An option that the factory does not take, or a required parameter that nobody gives.
    """
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        return factory(**options)
    named = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    anything = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
    for key, value in options.items():
        if key not in named and not anything:
            near = difflib.get_close_matches(key, named, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(named) or 'nothing'}"
            raise checks.fail(f"a parameter of {target}", key, value, hint)
    given = {**{key: value for key, value in offered.items() if key in named}, **options}
    for parameter in parameters.values():
        optional = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if parameter.default is parameter.empty and not optional and parameter.name not in given:
            raise checks.fail(
                f"a value for parameter {parameter.name!r}",
                "factory",
                target,
                f"set it beside the factory, give it a default, or call it one of {', '.join(offered)}",
            )
    return factory(**given)


def file_digest(path: str | Path) -> str:
    """24 hexadecimal digits over a file's content.

    Raises:
        RequestError: The file cannot be read.
    """
    try:
        with located(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:24]
    except OSError as error:
        reason = absent(path) if isinstance(error, FileNotFoundError) else error.strerror or type(error).__name__
        raise checks.fail("a file that can be read", "path", str(path), reason) from error


def _from_file(place: str, target: str) -> ModuleType:
    path = located(place)
    if not path.is_file():
        raise checks.fail("an existing .py file", "factory", target, absent(place))
    path = path.resolve()
    # The content is part of the name, so an edited file is read anew and an unchanged one is not run twice.
    key = hashlib.sha256(str(path).encode() + b"\0" + path.read_bytes()).hexdigest()[:12]
    name = f"robustsuite_file_{path.stem}_{key}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise checks.fail("an importable .py file", "factory", target, "rename the file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _findable(path.parent)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _failed(target, error) from error
    return module


def _from_package(place: str, target: str) -> ModuleType:
    _findable(Path.cwd())
    try:
        return importlib.import_module(place)
    except Exception as error:
        raise _failed(target, error) from error


def _findable(folder: Path) -> None:
    """Let modules beside the user's be imported; last on the path, so that nothing installed is shadowed."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _failed(target: str, error: Exception) -> Exception:
    reason = f"its import raised {type(error).__name__}: {error}"
    return checks.fail("a module that can be imported", "factory", target, reason)
