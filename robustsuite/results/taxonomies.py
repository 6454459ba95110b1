"""Public taxonomies of attacks that plug-ins name by id: whose they are, and what an id is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Taxonomy:
    """One catalogue of attacks.

    Args:
        name: What it is called.
        organization: Who keeps it.
        version: Edition that the ids below are from.
        uri: Where people read it.
        prefix: What its ids start with.
        entry: Where one id is described, with `{}` for the id; empty where ids have no page of their own.
    """

    name: str
    organization: str
    version: str
    uri: str
    prefix: str
    entry: str = ""

    def place(self, code: str) -> str:
        """The page of an id, or of the whole taxonomy."""
        return self.entry.format(code) if self.entry else self.uri


TAXONOMIES: Final = (
    Taxonomy(
        "MITRE ATLAS",
        "The MITRE Corporation",
        "2025",
        "https://atlas.mitre.org",
        "AML.T",
        "https://atlas.mitre.org/techniques/{}",
    ),
    Taxonomy(
        "OWASP Machine Learning Security Top Ten",
        "OWASP Foundation",
        "2023",
        "https://owasp.org/www-project-machine-learning-security-top-10/",
        "ML",
    ),
    Taxonomy(
        "NIST AI 100-2",
        "National Institute of Standards and Technology",
        "E2025",
        "https://doi.org/10.6028/NIST.AI.100-2e2025",
        "NISTAML.",
    ),
)
#: What ids are called; one that is not here stands for itself.
NAMES: Final = {
    "AML.T0020": "Poison Training Data",
    "AML.T0024.000": "Infer Training Data Membership",
    "AML.T0024.001": "Invert AI Model",
    "AML.T0024.002": "Extract AI Model",
    "AML.T0043": "Craft Adversarial Data",
    "AML.T0043.000": "White-Box Optimization",
    "AML.T0043.001": "Black-Box Optimization",
    "AML.T0043.004": "Insert Backdoor Trigger",
    "ML01:2023": "Input Manipulation Attack",
    "ML02:2023": "Data Poisoning Attack",
    "ML03:2023": "Model Inversion Attack",
    "ML04:2023": "Membership Inference Attack",
    "ML05:2023": "Model Theft",
    "NISTAML.013": "Data Poisoning",
    "NISTAML.021": "Clean-label Backdoor",
    "NISTAML.022": "Evasion",
    "NISTAML.023": "Backdoor Poisoning",
    "NISTAML.024": "Targeted Poisoning",
    "NISTAML.025": "Black-box Evasion",
    "NISTAML.031": "Model Extraction",
    "NISTAML.032": "Reconstruction",
    "NISTAML.033": "Membership Inference",
}


def of(code: str) -> Taxonomy | None:
    """The taxonomy of an id; None for one that is not known here.

    Example:
        >>> of("NISTAML.022").name
        'NIST AI 100-2'
    """
    return next((taxonomy for taxonomy in TAXONOMIES if code.startswith(taxonomy.prefix)), None)
