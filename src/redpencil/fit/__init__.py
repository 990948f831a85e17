"""What fits this machine: its kernels, its memory, the budget of a micro-batch."""
