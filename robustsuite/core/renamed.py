"""What records and suites called things before, and what they are called now: the one table, read where files are read.

Imports nothing of the suite, so that a script may read it from the file alone.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from typing import Any, Final

SINCE: Final = 3
"""Version of the first records in the words of now."""
ATTACKS: Final = {"adaptive": "cascade"}
FLAGS: Final = {"huge-radius": "unbounded-attack-fails", "lost-adversarial": "found-not-returned"}
ACCESSES: Final = {"scores": "score-based", "labels": "decision-based"}
FIELDS: Final = {"closest": "minimum_norm", "escalation": "review"}
OPTIONS: Final = {"escalate": "follow_up"}
COSTS: Final = {
    "standing_forwards": "sanity_forwards",
    "standing_backwards": "sanity_backwards",
    "escalation_forwards": "follow_up_forwards",
    "escalation_backwards": "follow_up_backwards",
}
#: Parts of messages.
TEXTS: Final = {
    "the attack met adversarial inputs that it did not hand in": (
        "the attack found adversarial inputs and did not return them"
    ),
    "answers differently when asked twice": "answers differently when queried twice",
    "samples that the attack left standing": "samples that the attack did not break",
    "samples still stand": "samples stay robust",
    "logits inside": "intermediate logits",
    "joint with what rejects": "model and detectors jointly",
    **FLAGS,
}


def label_of(label: str, known: Container[str]) -> str:
    """What an attack with this label is called now, where it is not among the known labels and its new name is."""
    renamed = next((new for old in ATTACKS if (new := renamed_label(label, old)) in known), label)
    return label if label in known else renamed


def renamed_label(label: str, name: str) -> str:
    """The label that stood for an attack of this old name: the name itself, or what `evaluate` makes of it.

    Example:
        >>> renamed_label("adaptive(rounds=2)", "adaptive"), renamed_label("mine", "adaptive")
        ('cascade(rounds=2)', 'mine')
    """
    rest = label[len(name) :]
    return ATTACKS[name] + rest if name in ATTACKS and label.startswith(name) and rest[:1] in ("", "(", "#") else label


def labels_of(uses: Iterable[tuple[str, str]], *, made: bool = False) -> list[str]:
    """Labels of attacks in the words of now: one of the user's own stays, and one whose new name is another's.

    Args:
        uses: Label and name of each, as they were written.
        made: Whether labels were made of names and options, as `evaluate` does, and not by the user.
    """
    listed = list(uses)
    taken = {label for label, _ in listed}
    new = [renamed_label(label, name) if made or label == name else label for label, name in listed]
    return [before if now in taken else now for (before, _), now in zip(listed, new, strict=True)]


def options_of(options: Mapping[str, Any], own: Container[str] = ()) -> dict[str, Any]:
    """Rules of a game by the names that they have now; an attack's own options are left alone."""
    return {name if name in own else OPTIONS.get(name, name): value for name, value in options.items()}


def current(line: Mapping[str, Any]) -> dict[str, Any]:
    """A record as a line of JSON holds it, in the words of now; its label is left to who sees all labels of the file.

    Example:
        >>> current({"attack": "pgd", "flags": ["resolved:huge-radius"], "closest": False})
        {'attack': 'pgd', 'flags': ['resolved:unbounded-attack-fails'], 'minimum_norm': False}
    """
    if line.get("version", 1) >= SINCE:
        return dict(line)
    new = {FIELDS.get(name, name): value for name, value in line.items()}
    changes: dict[str, Any] = {
        "attack_parameters": _plugins,
        "recipe": _plugins,
        "knowledge": lambda access: ACCESSES.get(access, access),
        "flags": lambda flags: [_in_text(flag) for flag in flags],
        "message": _in_text if line.get("status") != "error" else str,  # a traceback is what it is
        "cost": lambda cost: {COSTS.get(key, key): count for key, count in cost.items()},
        "review": _examined,
    }
    return {field: changes[field](value) if field in changes and value else value for field, value in new.items()}


def _plugins(value: Any) -> Any:
    """Descriptions of plug-ins, which say by `is` what they are of."""
    if isinstance(value, Mapping):
        return {key: ATTACKS.get(part, part) if key == "is" else _plugins(part) for key, part in value.items()}
    return [_plugins(part) for part in value] if isinstance(value, list) else value


def _in_text(text: str) -> str:
    for old, new in TEXTS.items():
        text = text.replace(old, new)
    text = re.sub(r"the part ('[^']*') inside", r"the submodule \1", text)
    text = re.sub(r"(\d+) parts inside", r"\1 submodules", text)
    # As a message says what a follow-up attack did; `not-adaptive` is a flag still.
    return re.sub(
        r"(?<![\w-])adaptive(?= through | broke | after | \d)|(?<=after )adaptive\b", ATTACKS["adaptive"], text
    )


def _examined(facts: Mapping[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {
        "checks": lambda checks: {_in_text(flag): _in_text(text) for flag, text in checks.items()},
        "played": lambda steps: [_played(step) for step in steps],
    }
    return {name: changes[name](value) if name in changes else value for name, value in facts.items()}


def _played(step: Mapping[str, Any]) -> dict[str, Any]:
    new: dict[str, Any] = _plugins(step)
    new["attack"] = ATTACKS.get(new["attack"], new["attack"])
    if "through" in new:
        new["through"] = _in_text(new["through"])
    if "knowledge" in new:
        new["knowledge"] = ACCESSES.get(new["knowledge"], new["knowledge"])
    return new
