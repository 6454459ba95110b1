"""Reference networks, and the user's own: from raw inputs to logits, with the normalisation inside."""
