"""The wrong-answer notebook: what became of each pair over training."""
