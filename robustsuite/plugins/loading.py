"""Load what a user names as `package.module:function` or `path/to/file.py:function`, and call it with what it takes."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from robustsuite.core import checks
from robustsuite.core.errors import UntrustedCodeError
from robustsuite.plugins.local_code import code_digest, followed, installed
from robustsuite.plugins.trust import held, released
from robustsuite.storage.files import absent, located

_READ: Final[dict[Path, str]] = {}  # a user's file -> digest of its content when its module was run
_FROM_FILES: Final[dict[str, str]] = {}  # module -> file's stem and digest of its content, which no folder changes


def load_factory(target: str) -> Callable[..., Any]:
    """Import the callable that `target` names.

    This runs the user's code. What a suite names comes here under a `Trust`, which refuses all that the user does not
    stand behind; what was read from a checkpoint or a record never does.

    Args:
        target: `package.module:function`, looked up on the import path and in the working folder, or
            `path/to/file.py:function`.

    Raises:
        RequestError: No such file, module or attribute, an import that fails, or an attribute that cannot be called.
        UntrustedCodeError: Code that is not trusted; nothing of it was run.

    Example:
        >>> load_factory("math:sqrt")(9.0)
        3.0
    """
    place, colon, attribute = target.rpartition(":")
    if not colon or not place or not attribute:
        raise checks.fail("package.module:function or path/to/file.py:function", "factory", target, "name both parts")
    module = _from_file(place, target) if place.endswith(".py") else _from_package(place, target)
    found: Any = module
    steps = [found]
    for name in attribute.split("."):
        if not hasattr(found, name):
            near = difflib.get_close_matches(name, [n for n in dir(found) if not n.startswith("_")], n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(near)}?" if near else f"define {name} there"
            raise checks.fail(f"a function in {place}", "factory", target, f"it has no {name}; {hint}")
        found = getattr(found, name)
        steps.append(found)
    trust = held()
    if trust is not None:
        trust.check_written(steps, target)
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
    with _fresh_code(), released():  # a factory may import as it runs
        return factory(**given)


def factory_digest(target: str) -> str:
    """24 hexadecimal digits over the code of what `target` names: its file and what that imports; empty without a file.

    Raises:
        RequestError: As for `load_factory`.
    """
    factory, place = load_factory(target), target.rpartition(":")[0]
    file = located(place).expanduser() if place.endswith(".py") else getattr(sys.modules[place], "__file__", None)
    return code_digest(file) if file is not None and Path(file).is_file() else source_digest(factory)


def source_digest(thing: Any) -> str:
    """24 hexadecimal digits over the file that a class or function is written in and what that imports; or empty."""
    try:
        file = inspect.getsourcefile(thing)
    except (TypeError, OSError):  # built in; or typed into a shell, a notebook or standard input, and in no file
        file = None
    return code_digest(file) if file is not None and Path(file).is_file() else ""


def code_name(kind: type) -> str:
    """Module and name of a class; one from a user's file is named by that file's content, wherever the file lies."""
    module = str(kind.__module__)
    return f"{_FROM_FILES.get(module, module)}.{kind.__qualname__}"


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
    path, trust = located(place), held()
    if trust is not None:
        trust.check_file(place, target)
    if not path.is_file():
        raise checks.fail("an existing .py file", "factory", target, absent(place))
    path = path.resolve()
    _findable(path.parent)
    _forget_changed(path)
    # What it says and imports is part of the name, so edited files are read anew and unchanged ones are not run twice.
    content = code_digest(path)
    name = f"robustsuite_file_{path.stem}_{hashlib.sha256(f'{path} {content}'.encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise checks.fail("an importable .py file", "factory", target, "rename the file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _FROM_FILES[name] = f"{path.stem} {file_digest(path)[:12]}"
    try:
        with _fresh_code(), released():
            spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _failed(target, error) from error
    _remember(path)
    return module


def _from_package(place: str, target: str) -> ModuleType:
    trust = held()
    if trust is not None:
        trust.check_name(place, target)
    _findable(Path.cwd())
    loaded = getattr(sys.modules.get(place), "__file__", None)
    if loaded is not None and not installed(Path(loaded)):
        _forget_changed(Path(loaded))
    try:
        with _fresh_code(), released():
            if trust is not None:
                trust.check_module(place, target)
            module = importlib.import_module(place)
    except UntrustedCodeError:
        raise
    except Exception as error:
        raise _failed(target, error) from error
    file = getattr(module, "__file__", None)  # the main module may have been typed into none
    if file is not None and not installed(Path(file)):
        _remember(Path(file))
    return module


@contextmanager
def _fresh_code() -> Iterator[None]:
    """Write no bytecode of a user's files: Python takes it for current where an edit keeps second and size."""
    from robustsuite.core.process_state import strangers_code

    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        with strangers_code("a factory"):
            yield
    finally:
        sys.dont_write_bytecode = before


def _remember(file: Path) -> None:
    for path in followed(file):
        if path.is_file():  # what was typed stands in none
            _READ.setdefault(path, file_digest(path))


def _forget_changed(file: Path) -> None:
    """Let modules of a user's code be imported anew where one of them was edited since it was run."""
    files = {path for path in followed(file) if path.is_file()}
    if all(_READ.get(path) in (None, file_digest(path)) for path in files):
        return
    for name, module in list(sys.modules.items()):
        where = getattr(module, "__file__", None)
        if where is not None and Path(where).resolve() in files:
            del sys.modules[name]
    for path in files:
        _READ.pop(path, None)
    importlib.invalidate_caches()


def _findable(folder: Path) -> None:
    """Let modules beside the user's be imported; last on the path, so that nothing installed is shadowed."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _failed(target: str, error: Exception) -> Exception:
    reason = f"its import raised {type(error).__name__}: {error}"
    return checks.fail("a module that can be imported", "factory", target, reason)
