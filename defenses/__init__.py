"""Built-in defences, one a file; each is a function from a recipe to a recipe."""
