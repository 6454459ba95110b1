"""Attacks on the inputs of a trained model."""
