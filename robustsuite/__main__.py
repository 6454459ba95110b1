"""`python -m robustsuite` is `robustsuite`."""

from robustsuite.cli import main

main()
