"""What is compiled on the user's machine, from C that comes with redpencil; never needed."""
