"""`run` a suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robustsuite.report.report import Report


def run(
    suite: str | Path | None = None,
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    plugins: Sequence[str] = (),
    trust: Sequence[str] = (),
    **options: Any,
) -> Report:
    """Run a suite file or a built-in suite.

    Args:
        suite: A path, the name of a built-in suite, or None for `quickstart`.
        out: Folder of the run; by default `runs/<name>`. A run that was interrupted there goes on.
        overrides: Keys of the suite to set, each as `"a.b=c"` with the value in YAML.
        plugins: Plug-in files to load.
        trust: Modules and files outside the working folder whose functions the suite may name as factories.
        **options: As in `robustsuite.runner.run.run`: workers, device, fresh, progress.

    Returns:
        The report, its files written.

    Raises:
        RequestError: The suite is wrong, and nothing was started; the message names file, line, key and value.
    """
    from robustsuite.plugins.trust import Trust
    from robustsuite.runner.run import run as run_suite
    from robustsuite.suite.load import load_suite

    loaded = load_suite(suite, list(overrides), list(plugins), Trust(named=tuple(trust), folder=Path.cwd()))
    outcome = run_suite(loaded, Path(out) if out is not None else Path("runs") / loaded.name, **options)
    report = Report.load(outcome.folder)
    report.save(outcome.folder)
    return report
