-- Schedules: what to enqueue, and when next. A scheduler moves `moment` on and enqueues in one
-- transaction, and only if `revision` is the one it read: so each moment is one job's, whoever looks.
CREATE TABLE {soniq}.schedules (
    name text PRIMARY KEY,
    task text NOT NULL,
    args jsonb NOT NULL DEFAULT '{}',
    queue text NOT NULL DEFAULT 'default',
    priority smallint NOT NULL DEFAULT 100 CHECK (priority BETWEEN 1 AND 1000),
    max_attempts integer NOT NULL DEFAULT 4 CHECK (max_attempts >= 1),
    timeout_seconds double precision,
    tags text[],
    options jsonb,
    cron text,
    every_seconds double precision CHECK (every_seconds >= 1),
    timezone text NOT NULL DEFAULT 'UTC',
    jitter_seconds double precision NOT NULL DEFAULT 0 CHECK (jitter_seconds >= 0),
    catch_up text NOT NULL DEFAULT 'one' CHECK (catch_up IN ('one', 'all', 'skip')),
    catch_up_max integer NOT NULL DEFAULT 100 CHECK (catch_up_max >= 1),
    overlap text NOT NULL DEFAULT 'allow' CHECK (overlap IN ('allow', 'skip', 'queue')),
    -- Of code: a deploy changes and retires it. Of a user: nobody but users do.
    owner text NOT NULL DEFAULT 'user' CHECK (owner IN ('code', 'user')),
    paused boolean NOT NULL DEFAULT false,
    retired_at timestamptz,
    -- The next moment the schedule stands for, and when its job is made: jitter, or the end of the
    -- job before, may put that off.
    moment timestamptz NOT NULL,
    next_run timestamptz NOT NULL,
    waiting boolean NOT NULL DEFAULT false,
    last_moment timestamptz,
    last_run timestamptz,
    last_job_id uuid,
    -- With overlap 'skip' and 'queue': the jobs that may not have ended.
    holders uuid[] NOT NULL DEFAULT '{}',
    runs bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    changed_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    revision bigint NOT NULL DEFAULT 1,
    -- Retired for want of a worker that has its task, not because its code is gone: who declares it
    -- restores it. A process that declares schedules and is no worker vouches for them until then.
    orphaned boolean NOT NULL DEFAULT false,
    declared_until timestamptz,
    CONSTRAINT schedules_timing CHECK ((cron IS NULL) <> (every_seconds IS NULL))
) WITH (fillfactor = 70);

CREATE INDEX schedules_next ON {soniq}.schedules (next_run) WHERE NOT paused AND retired_at IS NULL;
