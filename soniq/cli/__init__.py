"""What operators type. click lives here, and only here; a command is imported when it is called."""
