"""The conformance kit: the contract that the built-in plug-ins pass, for the tests of plug-ins from elsewhere.

Example:
    A plug-in's own tests need one line each::

        import pytest
        from robustsuite.testing import attack_laws, defense_laws

        @pytest.mark.parametrize("law", attack_laws("my-attack"), ids=str)
        def test_attack(law):
            law()

        @pytest.mark.parametrize("law", defense_laws("my-defense"), ids=str)
        def test_defense(law):
            law()
"""

from __future__ import annotations

from robustsuite.testing.attack_laws import attack_laws
from robustsuite.testing.defense_laws import defense_laws
from robustsuite.testing.law import Law, LawBroken
from robustsuite.testing.victims import tiny_context, tiny_network, tiny_samples, tiny_victim

__all__ = [
    "Law",
    "LawBroken",
    "attack_laws",
    "defense_laws",
    "tiny_context",
    "tiny_network",
    "tiny_samples",
    "tiny_victim",
]
