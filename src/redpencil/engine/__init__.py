"""The one training loop: step, loop, state, metrics. It knows no objective by name."""
