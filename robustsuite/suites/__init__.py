"""Suites that ship with the package; run them by name."""
