"""Spans of time as people write them."""

import numpy as np
import pytest

from robustsuite.core.deadline import OutOfTime, in_words, pause, seconds_of, unwatched, watched
from robustsuite.core.errors import RequestError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30), ("10m", 600), ("1h30m", 5400), ("1h", 3600), ("2m30s", 150), (" 10M ", 600), ("90", 90),
        ("0.5s", 0.5), ("1h5s", 3605), (45, 45), (2.5, 2.5), (np.float32(2.5), 2.5),
    ],
)  # fmt: skip
def test_what_is_read(text, seconds):
    assert seconds_of("budget", text) == seconds


@pytest.mark.parametrize(
    "text",
    ["0", "0s", "", " ", "10x", "m", "s", "-5", "-5m", "m10", "10 m 5", "1d", "1h30", "nan", "inf", 0, -1, True, None,
     [30], float("inf"), float("nan")],
)  # fmt: skip
def test_what_is_no_time_is_refused_with_the_forms(text):
    with pytest.raises(RequestError, match=r"expected a time above 0, got budget=.*; write it like 30s, 10m, 1h30m"):
        seconds_of("budget", text)


@pytest.mark.parametrize("seconds", [1, 28, 59, 60, 65, 150, 3595, 3600, 5400, 86400])
def test_what_is_told_is_read_again(seconds):
    assert seconds_of("budget", in_words(seconds)) == seconds


def test_what_is_told_is_near():
    for seconds in np.geomspace(1, 1e6, 500).tolist():
        assert seconds_of("budget", in_words(seconds)) == pytest.approx(seconds, rel=0.05, abs=0.6)


def test_work_is_left_at_a_pause_and_nowhere_else():
    def over():
        raise OutOfTime

    pause()
    with watched(over):
        with unwatched():
            pause()
        with pytest.raises(OutOfTime):
            pause()
    pause()
    assert not issubclass(OutOfTime, Exception)  # what catches every exception on the way lets it pass
