-- Every table of Soniq. `{soniq}` is the schema, filled in by whoever applies this file.

-- Live jobs only: a finished one leaves for history or dead_letters, so that this stays small.
CREATE TABLE {soniq}.jobs (
    id uuid PRIMARY KEY,
    task text NOT NULL,
    queue text NOT NULL DEFAULT 'default',
    args jsonb NOT NULL DEFAULT '{}',
    state text NOT NULL DEFAULT 'queued' CHECK (state IN ('scheduled', 'queued', 'processing')),
    priority smallint NOT NULL DEFAULT 100 CHECK (priority BETWEEN 1 AND 1000),
    attempt integer NOT NULL DEFAULT 0,
    max_attempts integer NOT NULL DEFAULT 4 CHECK (max_attempts >= 1),
    snoozes integer NOT NULL DEFAULT 0,
    cancel_requested boolean NOT NULL DEFAULT false,
    scheduled_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    created_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    started_at timestamptz,
    worker_id uuid,
    timeout_seconds double precision,
    tags text[],
    trace jsonb,
    attempts jsonb,
    -- Whoever names the worker has named the state: the fence of every write about a running job.
    CONSTRAINT jobs_worker CHECK ((state = 'processing') = (worker_id IS NOT NULL))
) WITH (
    -- A claim and an ending touch every row: room for the new version on its page, and early vacuums.
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0
);

-- The claim's order is this index's order; it holds nothing but what can be claimed now.
CREATE INDEX jobs_claim ON {soniq}.jobs (queue, priority, scheduled_at, id) WHERE state = 'queued';
CREATE INDEX jobs_due ON {soniq}.jobs (scheduled_at) WHERE state = 'scheduled';
CREATE INDEX jobs_running ON {soniq}.jobs (worker_id) WHERE state = 'processing';

-- What ended as done or cancelled. Append-only; kept for a while by partitions, so that forgetting
-- is DROP TABLE and costs no DELETE.
CREATE TABLE {soniq}.history (
    id uuid NOT NULL,
    task text NOT NULL,
    queue text NOT NULL,
    args jsonb NOT NULL,
    state text NOT NULL CHECK (state IN ('done', 'cancelled')),
    priority smallint NOT NULL,
    attempt integer NOT NULL,
    max_attempts integer NOT NULL,
    scheduled_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    started_at timestamptz,
    finished_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    worker_id uuid,
    timeout_seconds double precision,
    tags text[],
    trace jsonb,
    attempts jsonb,
    result jsonb,
    reason text,
    PRIMARY KEY (id, finished_at)
) PARTITION BY RANGE (finished_at);

-- Nothing is ever refused for want of a partition.
CREATE TABLE {soniq}.history_default PARTITION OF {soniq}.history DEFAULT;

-- What used up its attempts or was refused. Replaying makes a new job and keeps the row.
CREATE TABLE {soniq}.dead_letters (
    id uuid PRIMARY KEY,
    task text NOT NULL,
    queue text NOT NULL,
    args jsonb NOT NULL,
    priority smallint NOT NULL,
    attempt integer NOT NULL,
    max_attempts integer NOT NULL,
    scheduled_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    started_at timestamptz,
    died_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    worker_id uuid,
    timeout_seconds double precision,
    tags text[],
    trace jsonb,
    attempts jsonb,
    reason text NOT NULL,
    replayed_at timestamptz,
    replayed_as uuid
);
CREATE INDEX dead_letters_died ON {soniq}.dead_letters (died_at, id);

-- Queues that somebody said something about; a queue needs no row to exist.
CREATE TABLE {soniq}.queues (
    name text PRIMARY KEY,
    paused boolean NOT NULL DEFAULT false,
    paused_until timestamptz,
    changed_at timestamptz NOT NULL DEFAULT statement_timestamp()
);

-- Signs of life. Unlogged: they cost no WAL, and after a crash of the server nobody counts as dead
-- before everybody had time to report (see `watch`).
CREATE UNLOGGED TABLE {soniq}.workers (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    queues text[],
    tasks text[] NOT NULL DEFAULT '{}',
    concurrency integer NOT NULL,
    running integer NOT NULL DEFAULT 0,
    state text NOT NULL DEFAULT 'running',
    idle boolean NOT NULL DEFAULT false,
    version text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT statement_timestamp()
) WITH (fillfactor = 50);

-- One row, born with the first look for dead workers. A crash of the server empties it together with
-- `workers`, and so starts the time of grace anew.
CREATE UNLOGGED TABLE {soniq}.watch (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    since timestamptz NOT NULL DEFAULT statement_timestamp()
);

-- Who does a duty that one worker at a time should do: a lease, not a lock, so poolers are fine.
CREATE UNLOGGED TABLE {soniq}.leaders (
    duty text PRIMARY KEY,
    worker_id uuid NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);
