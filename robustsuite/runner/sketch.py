"""What a dry run says of a suite that names code which it leaves out."""

from __future__ import annotations

from dataclasses import dataclass

from robustsuite.core.errors import UntrustedCodeError
from robustsuite.runner.plan import plural, trained_as
from robustsuite.suite.schema import Suite


@dataclass(frozen=True)
class Sketch:
    """What is known of a run whose data or network are made by code that was not run: keys, and so its time, are not.

    Args:
        suite: Read by a dry run.
    """

    suite: Suite

    def describe(self) -> str:
        """A few lines for people."""
        suite = self.suite
        attacks = ", ".join(use.label for use in suite.attacks)
        data = suite.dataset.factory or suite.dataset.name
        return (
            f"suite {suite.name}: {data}, {trained_as(suite)}, seed {suite.seed}, "
            f"{plural(suite.repeats, 'repeat')}\n"
            f"  {plural(len(suite.defenses), 'defence')} x {plural(len(suite.attacks), 'attack')} ({attacks})\n"
            f"  to do, time: not known without the code below{not_checked(suite)}"
        )


def is_blind(suite: Suite) -> bool:
    """Whether a dry run left out what makes the data or a network, so that no cell has a key."""
    return any(p.kind is UntrustedCodeError and p.path[0] != "plugins" for p in suite.origin.unchecked)


def not_checked(suite: Suite) -> str:
    """A line for everything that a dry run could not check; empty where that is nothing."""
    lines = suite.origin.lines(suite.origin.unchecked)
    told = "\n".join(f"    {line}" for line in lines)
    return f"\n  not checked, since a dry run runs no code that you do not name:\n{told}" if lines else ""
