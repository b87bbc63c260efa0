"""What to ask the database: SQL, parameters, decoding; steps, never I/O. One room per table."""
