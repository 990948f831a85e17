"""Measurements: accuracy on held-out pairs, rewards, win rates, reward against KL."""
