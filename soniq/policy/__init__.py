"""What to decide: pure functions and tables. Clocks and dice are arguments."""
