"""One module for a command."""
