"""Everybody who lends Soniq a connection, and what must be so on each of them alike."""
