"""`python -m robustsuite` is `robustsuite`."""

import os
import sys
from pathlib import Path


def _start() -> None:
    """Look for no module in the working folder before a suite asks for it there, as `robustsuite` does not either."""
    here = os.getcwd()
    if sys.path[:1] == [here] and Path(__file__).resolve().parent.parent != Path(here).resolve():
        del sys.path[0]
    from robustsuite.cli import main

    main()


_start()
