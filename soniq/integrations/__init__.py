"""Where Soniq is at home: one module for each framework or library, none of which knows another.

None is needed to lend a connection: `db/borrow.py` finds the host of whatever is passed.
"""
