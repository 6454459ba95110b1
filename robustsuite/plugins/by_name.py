"""Attacks and defences by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robustsuite.core import checks
from robustsuite.plugins import registry
from robustsuite.plugins.expressions import parse_call


def attack(name: str, /, **options: Any) -> Any:
    """An attack by name, with its options checked.

    Args:
        name: A registered name, `art:NAME`, or an expression such as `"pgd(steps=5)"`.
        **options: The attack's own options.

    Raises:
        RequestError: An unknown name or option, or an impossible value.

    Example:
        >>> attack("pgd", steps=5) == attack("pgd(steps=5)")
        True
    """
    return _made(registry.attacks, name, options)


def defense(name: str, /, **options: Any) -> Any:
    """A defence by name, with its options checked.

    Args:
        name: A registered name, or an expression such as `"dp-sgd(epsilon=3.0)"`.
        **options: The defence's own options.

    Raises:
        RequestError: An unknown name or option, or an impossible value.
    """
    return _made(registry.defenses, name, options)


def _made(plugins: registry.Registry, text: str, options: Mapping[str, Any]) -> Any:
    name, written = parse_call(text)
    twice = sorted(set(written) & set(options))
    if twice:
        raise checks.fail("each option once", twice[0], options[twice[0]], f"it also stands in {text!r}")
    return plugins.get(name).make({**written, **options})
