"""The nouns that everything else is made of, and what computes with them alone."""
