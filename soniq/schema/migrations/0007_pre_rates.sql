-- Attempts that ended per second in each queue, since the worker's sign of life before: to tell it
-- from history would need an index that every ending writes.
ALTER TABLE {soniq}.workers ADD COLUMN rates jsonb;
