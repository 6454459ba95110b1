"""Progress in a log: the line that counts is the one of what runs."""

import io
import time

from robustsuite.cli.progress import _Lines, progress_on


def test_what_runs_is_named_although_it_began_right_after_the_last_line():
    log = io.StringIO()
    lines = _Lines(log, every=0.3)
    lines("measuring clean accuracy", 0, 3)
    lines("playing fgsm", 1, 3)
    lines("playing pgd", 2, 3)
    assert log.getvalue() == "[0/3] measuring clean accuracy\n"
    time.sleep(0.6)
    assert log.getvalue().splitlines()[1:] == ["[2/3] playing pgd"], "the latest, once"
    lines("finished", 3, 3)
    time.sleep(0.4)
    assert log.getvalue().splitlines()[2:] == ["[3/3] finished"]


def test_lines_are_few():
    log = io.StringIO()
    lines = _Lines(log, every=0.2)
    begun = time.monotonic()
    for done in range(50):
        lines(f"cell {done}", done, 100)
        time.sleep(0.02)
    lines.close()
    most = (time.monotonic() - begun) / 0.2 + 2
    assert 2 <= len(log.getvalue().splitlines()) <= most


def test_nothing_is_written_behind_the_end():
    log = io.StringIO()
    with progress_on(log) as progress:
        progress("measuring clean accuracy", 0, 2)
        progress("playing pgd", 1, 2)
    assert log.getvalue() == "[0/2] measuring clean accuracy\n"
