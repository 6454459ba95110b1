"""Can this number be believed? Sanity checks, surrogates for missing gradients, and follow-up attacks."""
