"""Plug-ins by name: registered, loaded, checked, told from one another by their code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustsuite.core.lazy import lazily

if TYPE_CHECKING:
    from robustsuite.plugins.by_name import attack, defense
    from robustsuite.plugins.registry import Entry, attacks, defenses, panels, register, scenarios
else:
    __getattr__ = lazily(
        __name__,
        {
            "Entry": ".registry",
            "attack": ".by_name",
            "attacks": ".registry",
            "defense": ".by_name",
            "defenses": ".registry",
            "panels": ".registry",
            "register": ".registry",
            "scenarios": ".registry",
        },
    )

__all__ = [
    "Entry",
    "attack",
    "attacks",
    "defense",
    "defenses",
    "panels",
    "register",
    "scenarios",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
