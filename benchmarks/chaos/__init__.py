"""Hurt the system in every way production does, and account for every job."""
