"""Measurements: accuracy on held-out pairs."""
