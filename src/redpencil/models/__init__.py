"""The Hugging Face side: load, adapters, tree attention, export."""
