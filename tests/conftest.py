"""Every test session has a cache of its own."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUSTSUITE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
