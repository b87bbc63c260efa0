-- Steps of priority that a job has gained by waiting, in a queue that says so: see `aging_seconds`.
ALTER TABLE {soniq}.jobs ADD COLUMN aged smallint;
