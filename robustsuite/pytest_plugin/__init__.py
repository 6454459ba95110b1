"""Gates in tests: measure a model as far as the verdict needs, judge it, and write down what was seen."""
