"""SARIF's rules and taxonomies: what each attack of a run does, and under which public names it is known."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from robustsuite.core.errors import RequestError
from robustsuite.evaluation.records import CLEAN as _UNATTACKED
from robustsuite.evaluation.records import Record
from robustsuite.plugins.docstrings import parse_docstring
from robustsuite.results import taxonomies
from robustsuite.results.worst_case import WORST

if TYPE_CHECKING:
    from robustsuite.plugins.registry import Entry

Json = dict[str, Any]
CLEAN: Final = "clean-evaluation"
OTHER: Final = "gate"
_WITHOUT_PLUGIN: Final = {
    CLEAN: ("CleanEvaluation", "The model on inputs that nobody has touched."),
    WORST: ("WorstCase", "A sample is robust only where no evasion attack and no follow-up attack broke it."),
    OTHER: ("Gate", "A gate about a figure that no attack of the run gives."),
}
_ARXIV: Final = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


class Rules:
    """The rules of one run: one for each plug-in among its attacks, whatever labels it was played under.

    Args:
        records: The run's records, in plan order.
        further: Labels of attacks that have no record of their own, such as the worst case.
    """

    def __init__(self, records: Iterable[Record], further: Iterable[str] = ()) -> None:
        self._names = {record.attack: _rule_of(record) for record in records}
        self._names.update({label: _without_record(label) for label in further if label not in self._names})
        self._ids = tuple(dict.fromkeys(self._names.values()))
        self._entries = {name: entry for name in self._ids if (entry := _entry(name)) is not None}
        carried = dict.fromkeys(code for entry in self._entries.values() for code in entry.taxonomy)
        of = {known: [code for code in carried if taxonomies.of(code) is known] for known in taxonomies.TAXONOMIES}
        self._codes = {taxonomy: codes for taxonomy, codes in of.items() if codes}
        self._targets = {
            code: {"id": code, "index": index, "toolComponent": {"name": taxonomy.name, "index": place}}
            for place, (taxonomy, codes) in enumerate(self._codes.items())
            for index, code in enumerate(codes)
        }

    def reference(self, label: str) -> Json:
        """The rule of an attack's label, as results name it."""
        rule = self._names.get(label, OTHER)
        return {"ruleId": rule, "ruleIndex": self._ids.index(rule)}

    def is_control(self, label: str) -> bool:
        """Whether the attack is a baseline, whose success shows no weakness."""
        entry = self._entries.get(self._names.get(label, OTHER))
        return entry is not None and entry.control

    def described(self) -> list[Json]:
        """`tool.driver.rules`."""
        return [self._plugin(self._entries[name]) if name in self._entries else _plain(name) for name in self._ids]

    def catalogues(self) -> list[Json]:
        """`run.taxonomies`: those of their entries that a rule relates to."""
        return [
            {
                "name": taxonomy.name,
                "version": taxonomy.version,
                "organization": taxonomy.organization,
                "informationUri": taxonomy.uri,
                "isComprehensive": False,
                "shortDescription": {"text": f"{taxonomy.name} by {taxonomy.organization}"},
                "taxa": [_taxon(taxonomy, code) for code in codes],
            }
            for taxonomy, codes in self._codes.items()
        ]

    def supported(self) -> list[Json]:
        """`tool.driver.supportedTaxonomies`."""
        return [{"name": taxonomy.name, "index": index} for index, taxonomy in enumerate(self._codes)]

    def _plugin(self, entry: Entry) -> Json:
        text = parse_docstring(entry.cls)
        references = text.sections.get("References", "")
        paper = _ARXIV.search(references)
        rule: Json = {
            "id": entry.name,
            "name": _name(entry.cls.__name__),
            "shortDescription": {"text": entry.summary},
            "fullDescription": {"text": text.description or entry.summary},
            "help": _help(text.description, references, entry.taxonomy),
            "defaultConfiguration": {"level": "note"},
            "properties": {"tags": ["security", entry.scenario, *entry.taxonomy], "access": entry.access},
            # The taxonomy's entry is the wider one: every success of this attack is an instance of it.
            "relationships": [
                {"target": self._targets[code], "kinds": ["superset"]}
                for code in entry.taxonomy
                if code in self._targets
            ],
        }
        return rule if paper is None else {**rule, "helpUri": f"https://arxiv.org/abs/{paper.group(1)}"}


def _rule_of(record: Record) -> str:
    if record.attack == _UNATTACKED:
        return CLEAN
    return str(record.attack_parameters.get("is") or record.attack)


def _without_record(label: str) -> str:
    return label if label == WORST else CLEAN if label == _UNATTACKED else OTHER


def _entry(name: str) -> Entry | None:
    """The plug-in of this name; None where it is not installed here, or is no plug-in."""
    from robustsuite.plugins import registry

    if name in _WITHOUT_PLUGIN:
        return None
    try:
        return registry.attacks.get(name)
    except RequestError:
        return None


def _plain(name: str) -> Json:
    """A rule without a plug-in."""
    title, told = _WITHOUT_PLUGIN.get(name, (_name(name), f"The attack {name}, which is not installed here."))
    return {**describe(name, title, told), "properties": {"tags": ["security"]}}


def describe(code: str, name: str, told: str, *, level: str = "note") -> Json:
    """A descriptor of a rule or a notification with all that GitHub asks for, from one sentence."""
    texts = {key: {"text": told} for key in ("shortDescription", "fullDescription", "help")}
    return {"id": code, "name": name, **texts, "defaultConfiguration": {"level": level}}


def _help(description: str, references: str, codes: Sequence[str]) -> Mapping[str, str]:
    named = [f"{code} {taxonomies.NAMES.get(code, '')}".strip() for code in codes]
    linked = [
        f"[{name}]({taxonomy.place(code)})" if (taxonomy := taxonomies.of(code)) is not None else name
        for name, code in zip(named, codes, strict=True)
    ]
    plain = [description, f"References: {references}" if references else "", f"Known as: {', '.join(named)}"]
    marked = [description, f"**References.** {references}" if references else "", f"**Known as** {', '.join(linked)}"]
    used = slice(None) if named else slice(None, 2)
    return {name: "\n\n".join(filter(None, part[used])) for name, part in (("text", plain), ("markdown", marked))}


def _taxon(taxonomy: taxonomies.Taxonomy, code: str) -> Json:
    name = taxonomies.NAMES.get(code)
    found: Json = {"id": code, "helpUri": taxonomy.place(code)}
    return found if name is None else {**found, "name": name, "shortDescription": {"text": name}}


def _name(name: str) -> str:
    """An identifier for people, which has to differ from the rule's id: `PGDAttack`."""
    joined = "".join(part[:1].upper() + part[1:] for part in re.split(r"[^A-Za-z0-9]+", name))
    return joined if joined.endswith("Attack") else f"{joined}Attack"
