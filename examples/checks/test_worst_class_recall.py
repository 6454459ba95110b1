"""No class is sacrificed: the accuracy within every single class is above a floor."""

import pytest
import torch

pytestmark = pytest.mark.security

FLOOR = 0.7


def test_every_class(model, data, require_rate):
    with torch.no_grad():
        right = torch.cat([model(batch.x).argmax(1) == batch.y for batch in data.batches(256)])
    for label in range(data.classes):
        require_rate(right[data.y == label], f"recall of class {label}", at_least=FLOOR)
