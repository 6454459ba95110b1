"""A peer that cannot be imported is a test that is skipped, whatever it raises."""

import pytest
from peers import imported


@pytest.mark.parametrize("code", ["import gone_since", "raise ImportError('old')", "1 / 0", "from math import no"])
def test_a_peer_that_breaks_is_skipped_with_its_reason(tmp_path, monkeypatch, code):
    (tmp_path / "broken_peer.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(pytest.skip.Exception, match=r"broken_peer cannot be imported .*Error: .*; pip install"):
        imported("broken_peer")


def test_a_peer_that_is_there_is_the_module():
    assert imported("math").sqrt(4) == 2
