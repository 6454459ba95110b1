"""Data sets become `Samples` and `Splits`: raw inputs with declared bounds, labels, and an id for every sample."""
