-- Queues with a `max_depth`: how many jobs may still come in.

-- Counting what waits takes long in a deep queue, so what a count left is kept as room, and taken from
-- until none is left. It lies in slices, so that transactions that enqueue into one queue do not wait
-- for one another: each takes from a slice that nobody else has locked. A slice was filled under what
-- was `said` of the queue then; under anything said later it is void. Unlogged: after a crash of the
-- server it is counted anew.
CREATE UNLOGGED TABLE {soniq}.room (
    queue text NOT NULL,
    slice smallint NOT NULL,
    said timestamptz NOT NULL,
    free integer NOT NULL CHECK (free >= 0),
    PRIMARY KEY (queue, slice)
) WITH (fillfactor = 50);

-- Cancel the jobs of a queue that were enqueued longest ago; answer how many. What others hold, to run
-- it most likely, is left to them. Each part of the look has an index.
CREATE FUNCTION {soniq}.drop_oldest(queue text, number integer) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    dropped integer;
BEGIN
    WITH oldest AS (
        SELECT c.id FROM (
            (SELECT j.id, j.created_at FROM {soniq}.jobs j
             WHERE j.state = 'queued' AND j.gate IS NULL AND j.queue = drop_oldest.queue)
            UNION ALL
            (SELECT j.id, j.created_at FROM {soniq}.jobs j
             WHERE j.state = 'queued' AND j.gate IS NOT NULL AND j.queue = drop_oldest.queue)
            UNION ALL
            (SELECT j.id, j.created_at FROM {soniq}.jobs j
             WHERE j.state = 'scheduled' AND j.queue = drop_oldest.queue)) AS c
        ORDER BY c.created_at, c.id LIMIT drop_oldest.number + 100),
    locked AS (
        SELECT j.id FROM {soniq}.jobs j
        WHERE j.id = ANY (ARRAY (SELECT id FROM oldest)) AND j.worker_id IS NULL
        ORDER BY j.created_at, j.id LIMIT drop_oldest.number FOR UPDATE SKIP LOCKED),
    gone AS (
        DELETE FROM {soniq}.jobs WHERE id = ANY (ARRAY (SELECT id FROM locked))
        RETURNING id, task, queue, args, priority, attempt, max_attempts, scheduled_at, created_at,
            started_at, worker_id, timeout_seconds, tags, trace, attempts)
    INSERT INTO {soniq}.history (
        id, task, queue, args, priority, attempt, max_attempts, scheduled_at, created_at,
        started_at, worker_id, timeout_seconds, tags, trace, attempts, state, reason)
    SELECT id, task, queue, args, priority, attempt, max_attempts, scheduled_at, created_at,
        started_at, worker_id, timeout_seconds, tags, trace, attempts,
        'cancelled', 'dropped: its queue was full'
    FROM gone;
    GET DIAGNOSTICS dropped = ROW_COUNT;
    RETURN dropped;
END
$$;

-- Let so many jobs into a queue, or tell what it asks for when it is full: NULL is in, 'never' is that
-- no queue of that depth could ever take so many. Whoever is let in must enqueue in this transaction;
-- its rollback gives the room back.
CREATE FUNCTION {soniq}.admit(queue text, number integer) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    said record;
    mine smallint[];
    left_over integer;
BEGIN
    SELECT q.max_depth, q.on_full, q.changed_at INTO said FROM {soniq}.queues q
    WHERE q.name = admit.queue AND q.max_depth IS NOT NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF admit.number > said.max_depth THEN
        RETURN 'never';
    END IF;
    FOR look IN 1..2 LOOP
        UPDATE {soniq}.room SET free = free - admit.number
        WHERE queue = admit.queue AND slice = (
            SELECT r.slice FROM {soniq}.room r
            WHERE r.queue = admit.queue AND r.said = said.changed_at AND r.free >= admit.number
            LIMIT 1 FOR UPDATE SKIP LOCKED);
        IF FOUND THEN
            RETURN NULL;
        END IF;
        -- One counts at a time; whoever waited may find room in what the other left.
        IF look = 1 THEN
            PERFORM pg_advisory_xact_lock(hashtextextended({channel} || ':room:' || admit.queue, 0));
        END IF;
    END LOOP;
    -- ON CONFLICT would wait for whoever has a slice.
    IF NOT EXISTS (SELECT FROM {soniq}.room r WHERE r.queue = admit.queue) THEN
        INSERT INTO {soniq}.room (queue, slice, said, free)
        SELECT admit.queue, n, said.changed_at, 0 FROM generate_series(0, 15) AS n;
    END IF;
    mine := ARRAY (
        SELECT r.slice FROM {soniq}.room r WHERE r.queue = admit.queue
        ORDER BY r.slice FOR UPDATE SKIP LOCKED);
    -- A slice that others hold may be used up by them: its room is taken. In one statement, because
    -- what they commit moves from the one number to the other. Of what is far too many, some is enough.
    SELECT said.max_depth - admit.number - coalesce((
            SELECT sum(r.free) FROM {soniq}.room r
            WHERE r.queue = admit.queue AND r.slice <> ALL (mine)), 0) - (
        SELECT count(*) FROM (
            (SELECT FROM {soniq}.jobs j
             WHERE j.state = 'queued' AND j.gate IS NULL AND j.queue = admit.queue
             LIMIT said.max_depth + 1000)
            UNION ALL
            (SELECT FROM {soniq}.jobs j
             WHERE j.state = 'queued' AND j.gate IS NOT NULL AND j.queue = admit.queue
             LIMIT said.max_depth + 1000)
            UNION ALL
            (SELECT FROM {soniq}.jobs j WHERE j.state = 'scheduled' AND j.queue = admit.queue
             LIMIT said.max_depth + 1000)) AS waiting)
    INTO left_over;
    IF left_over < 0 AND said.on_full = 'drop_oldest' THEN
        PERFORM {soniq}.drop_oldest(admit.queue, -left_over);
        left_over := 0;
    END IF;
    IF left_over < 0 THEN
        RETURN said.on_full;
    END IF;
    UPDATE {soniq}.room r SET said = said.changed_at, free = left_over / cardinality(mine)
        + CASE WHEN r.slice = mine[1] THEN left_over % cardinality(mine) ELSE 0 END
    WHERE r.queue = admit.queue AND r.slice = ANY (mine);
    RETURN NULL;
END
$$;

-- Let one job of `enqueue` into its queue, or refuse it.
CREATE FUNCTION {soniq}.enter(queue text) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF {soniq}.admit(enter.queue, 1) IS NOT NULL THEN
        RAISE EXCEPTION 'soniq: queue % is full', quote_literal(enter.queue)
            USING ERRCODE = '53400', HINT = 'Try again later, or run more workers.';
    END IF;
END
$$;
