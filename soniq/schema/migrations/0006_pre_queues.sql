-- What may be said about a queue at run time; NULL is not said.
--   concurrency: jobs of it that run at once, over all workers.
--   rate_count in rate_seconds: how many may start; rate_burst: how many at once after a rest.
--   max_depth: jobs that may wait in it, and what becomes of one too many: on_full.
--   aging_seconds: how long a job waits before its priority rises by one step.
ALTER TABLE {soniq}.queues
    ADD COLUMN concurrency integer CHECK (concurrency >= 1),
    ADD COLUMN rate_count integer CHECK (rate_count >= 1),
    ADD COLUMN rate_seconds double precision CHECK (rate_seconds > 0),
    ADD COLUMN rate_burst integer CHECK (rate_burst >= 1),
    ADD COLUMN max_depth integer CHECK (max_depth >= 1),
    ADD COLUMN on_full text CHECK (on_full IN ('raise', 'drop_oldest', 'wait')),
    ADD COLUMN aging_seconds double precision CHECK (aging_seconds > 0),
    ADD CONSTRAINT queues_rate CHECK ((rate_count IS NULL) = (rate_seconds IS NULL)),
    ADD CONSTRAINT queues_burst CHECK (rate_burst IS NULL OR rate_count IS NOT NULL),
    ADD CONSTRAINT queues_depth CHECK ((max_depth IS NULL) = (on_full IS NULL));
