"""Recipes: what every option is called, means and defaults to; recipe files."""
