"""The data doctor: what a file of preferences holds, and what is wrong with it."""
