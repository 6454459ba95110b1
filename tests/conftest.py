"""Every test session has a thread, a cache and a terminal width of its own, and writes to no job's summary."""

import os
import sys

import pytest

# Two workers with two threads each on two cores are eight times slower than with one, for the pools wait for each
# other. Libraries read these when they are loaded, and the processes that tests start inherit them.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
if "torch" in sys.modules:
    sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"].partition(",")[0]))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUSTSUITE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("COLUMNS", "200")
        patch.delenv("GITHUB_STEP_SUMMARY", raising=False)
        yield
