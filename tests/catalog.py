"""What a database's schema is, to compare it with another."""

from __future__ import annotations

from typing import Any

import psycopg

# Everything that makes a schema what it is, as text and in order. History's partitions are named by
# the day they were made on.
CATALOG = """
    SELECT 'column', table_name, column_name, data_type, is_nullable, coalesce(column_default, '')
    FROM information_schema.columns
    WHERE table_schema = 'soniq' AND table_name !~ '^history_[0-9]'
    UNION ALL SELECT 'index', tablename, indexname, indexdef, '', '' FROM pg_indexes
    WHERE schemaname = 'soniq' AND tablename !~ '^history_[0-9]'
    UNION ALL SELECT 'constraint', CAST(conrelid AS regclass)::text, conname,
        pg_get_constraintdef(oid), '', ''
    FROM pg_constraint
    WHERE connamespace = CAST('soniq' AS regnamespace)
        AND CAST(conrelid AS regclass)::text !~ 'history_[0-9]'
    UNION ALL SELECT 'table', relname, relkind::text, relpersistence::text,
        coalesce(array_to_string(reloptions, ','), ''), ''
    FROM pg_class
    WHERE relnamespace = CAST('soniq' AS regnamespace) AND relname !~ '^history_[0-9]'
    UNION ALL SELECT 'function', proname, pg_get_functiondef(oid), '', '', ''
    FROM pg_proc WHERE pronamespace = CAST('soniq' AS regnamespace)
    UNION ALL SELECT 'migration', name, CAST(version AS text), checksum, '', ''
    FROM soniq.migrations
    ORDER BY 1, 2, 3, 4, 5, 6"""


def catalog(url: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(CATALOG.encode()).fetchall()
