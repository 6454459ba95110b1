"""Whole files, what is kept under a key, and where things lie."""
