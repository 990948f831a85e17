"""Experiments on the review world: the demo, and reward against KL for every method."""
