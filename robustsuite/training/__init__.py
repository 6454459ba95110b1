"""How a model comes to be: `Recipe` says what, `fit` does it, the cache remembers it."""
