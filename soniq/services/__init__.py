"""Groups of operations under one name, both colours in one file."""
