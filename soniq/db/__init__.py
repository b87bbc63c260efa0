"""How to ask the database. psycopg lives here, and in the integrations."""
