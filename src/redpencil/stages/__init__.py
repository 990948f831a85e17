"""The composition root: a recipe becomes a wiring, a wiring a run."""
