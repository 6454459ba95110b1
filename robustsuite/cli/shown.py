"""What `robustsuite show` tells of one name: a plug-in, a game, a data set, a network or a built-in suite."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from robustsuite.plugins.docstrings import Docstring, parse_docstring

Row = dict[str, Any]


def find(name: str) -> list[Row]:
    """Everything that is called `name`, described.

    Raises:
        RequestError: Nothing is called so; the message names the nearest.
    """
    from robustsuite.core import checks
    from robustsuite.core.renamed import ATTACKS

    name = ATTACKS.get(name, name)
    found = [row for look in (_plugins, _scenarios, _datasets, _models, _suites) for row in look(name)]
    if not found:
        checks.one_of("name", name, sorted(_all_names()))
    return found


def _all_names() -> set[str]:
    from robustsuite.data.catalogue import NAMES
    from robustsuite.models.build import NETS
    from robustsuite.plugins import registry
    from robustsuite.scenarios import SCENARIOS
    from robustsuite.suite.builtin import builtin_suites

    plugins = {entry.name for known in (registry.attacks, registry.defenses) for entry in known.all()}
    return plugins | set(SCENARIOS) | set(NAMES) | set(NETS) | {suite.name for suite in builtin_suites()}


def _plugins(name: str) -> Iterator[Row]:
    from robustsuite.plugins import registry

    for kind, known in (("attack", registry.attacks), ("defense", registry.defenses)):
        names = [entry.name for entry in known.all()]
        if name in names or (kind == "attack" and name.startswith("art:")):
            entry = known.get(name)
            facts = {"scenario": entry.scenario, "access": entry.access, "taxonomy": ", ".join(entry.taxonomy)}
            if kind == "attack":
                facts["rules"] = ", ".join(sorted(entry.game.options))
            yield described(kind, name, entry.cls, facts)


def _scenarios(name: str) -> Iterator[Row]:
    from robustsuite.scenarios import SCENARIOS

    if name in SCENARIOS:
        game = SCENARIOS[name]
        facts = {
            "access": ", ".join(game.accesses),
            "needs": ", ".join(game.needs),
            "rules": ", ".join(game.options),
            "metrics": ", ".join(game.metrics),
            "default": game.default_attack,
        }
        yield described("scenario", name, game, facts)


def _datasets(name: str) -> Iterator[Row]:
    from robustsuite.data.catalogue import DESCRIPTIONS, DatasetSpec

    if name in DESCRIPTIONS:
        row = described("dataset", name, DatasetSpec, {})
        settings = [parameter for parameter in row["parameters"] if parameter["name"] != "name"]
        yield {**row, "description": DESCRIPTIONS[name], "parameters": settings}


def _models(name: str) -> Iterator[Row]:
    from robustsuite.models.build import NETS
    from robustsuite.models.torchvision_nets import TorchvisionNet, torchvision_names

    if name in NETS:
        yield described("model", name, NETS[name], {})
    elif name in torchvision_names():
        row = described("model", name, TorchvisionNet, {})
        settings = [parameter for parameter in row["parameters"] if parameter["name"] != "name"]
        yield {**row, "parameters": settings}


def _suites(name: str) -> Iterator[Row]:
    from robustsuite.suite.builtin import builtin_suites, builtin_text

    for suite in builtin_suites():
        if suite.name == name:
            empty: Row = {"parameters": [], "references": "", "guarantees": ""}
            yield {"name": name, "kind": "suite", "description": suite.summary, **empty, "yaml": builtin_text(name)}


def described(kind: str, name: str, cls: type[Any], facts: Row) -> Row:
    """What the docstring and the fields of a dataclass say."""
    text: Docstring = parse_docstring(cls)
    return {
        "name": name,
        "kind": kind,
        **{key: value for key, value in facts.items() if value},
        "description": text.description,
        "parameters": [
            {
                "name": field.name,
                "type": field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type)),
                "default": _default(field),
                "description": text.arguments.get(field.name, ""),
            }
            for field in dataclasses.fields(cls)
            if field.init
        ],
        "references": text.sections.get("References", ""),
        "guarantees": text.sections.get("Guarantees", ""),
    }


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    return "required" if field.default_factory is dataclasses.MISSING else repr(field.default_factory())
