"""What runs: one worker, its loops, and the signals that end it."""
