"""The one training loop: step, loop, state, metrics. It does not know the words dpo, reward or rl."""
