"""The version, which the package is built with."""

from typing import Final

__version__: Final = "0.1.0"
