"""Folders that commands leave behind: runs, what a name points to, journals of long jobs."""
