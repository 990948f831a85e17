"""Checks of single rows, of comparisons and of token ids: what is wrong, and where."""
