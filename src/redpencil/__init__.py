"""redpencil: align language models with preference pairs."""

__version__ = "0.1.0"
