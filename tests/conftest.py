"""Every test session has a cache and a terminal width of its own, and writes to no job's summary."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUSTSUITE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("COLUMNS", "200")
        patch.delenv("GITHUB_STEP_SUMMARY", raising=False)
        yield
