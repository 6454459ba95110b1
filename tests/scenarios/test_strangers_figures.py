"""What a stranger's judge, filter or training is told where it goes wrong."""

import pytest

from robustsuite.core.errors import RequestError
from robustsuite.core.metric import Metric, Metrics
from robustsuite.testing import tiny_samples


@pytest.mark.parametrize("plain", [80, 0.5])
def test_a_figure_that_is_a_plain_number_is_named(plain):
    with pytest.raises(RequestError, match=f"expected a Metric for each figure, got asked={plain}"):
        Metrics({"auc": Metric(0.5), "asked": plain})


def test_a_filter_that_keeps_nothing_is_thought_of():
    samples = tiny_samples(8)
    with pytest.raises(RequestError, match="what a filter keeps"):
        samples.take(samples.y < 0)
