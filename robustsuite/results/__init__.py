"""Records to a table, to comparisons and to verdicts of gates."""
