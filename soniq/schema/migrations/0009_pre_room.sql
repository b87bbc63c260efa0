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

-- Take room from a slice that nobody else has; answer whether there was one with enough.
CREATE FUNCTION {soniq}.take_room(queue text, number integer, said timestamptz) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
    UPDATE {soniq}.room SET free = free - take_room.number
    WHERE queue = take_room.queue AND slice = (
        SELECT r.slice FROM {soniq}.room r
        WHERE r.queue = take_room.queue AND r.said = take_room.said AND r.free >= take_room.number
        LIMIT 1 FOR UPDATE SKIP LOCKED);
    RETURN FOUND;
END
$$;

-- Count what waits in a queue, take room for so many jobs, and put what is left into the slices that
-- nobody else has; answer whether there was enough. Only whoever has the queue's lock may.
CREATE FUNCTION {soniq}.count_room(asked {soniq}.queues, number integer) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    mine smallint[];
    left_over integer;
BEGIN
    -- ON CONFLICT would wait for whoever has a slice.
    IF NOT EXISTS (SELECT FROM {soniq}.room r WHERE r.queue = asked.name) THEN
        INSERT INTO {soniq}.room (queue, slice, said, free)
        SELECT asked.name, n, asked.changed_at, 0 FROM generate_series(0, 15) AS n;
    END IF;
    mine := ARRAY (
        SELECT r.slice FROM {soniq}.room r WHERE r.queue = asked.name
        ORDER BY r.slice FOR UPDATE SKIP LOCKED);
    -- A slice that others hold may be used up by them: its room is taken. In one statement, because
    -- what they commit moves from the one number to the other. Of what is far too many, some is enough.
    SELECT asked.max_depth - count_room.number - coalesce((
            SELECT sum(r.free) FROM {soniq}.room r
            WHERE r.queue = asked.name AND r.slice <> ALL (mine)), 0) - (
        SELECT count(*) FROM (
            (SELECT FROM {soniq}.jobs j
             WHERE j.state = 'queued' AND j.gate IS NULL AND j.queue = asked.name
             LIMIT asked.max_depth + 1000)
            UNION ALL
            (SELECT FROM {soniq}.jobs j
             WHERE j.state = 'queued' AND j.gate IS NOT NULL AND j.queue = asked.name
             LIMIT asked.max_depth + 1000)
            UNION ALL
            (SELECT FROM {soniq}.jobs j WHERE j.state = 'scheduled' AND j.queue = asked.name
             LIMIT asked.max_depth + 1000)) AS waiting)
    INTO left_over;
    IF left_over < 0 AND asked.on_full = 'drop_oldest' THEN
        PERFORM {soniq}.drop_oldest(asked.name, -left_over);
        left_over := 0;
    END IF;
    IF left_over >= 0 AND cardinality(mine) > 0 THEN
        UPDATE {soniq}.room r SET said = asked.changed_at, free = left_over / cardinality(mine)
            + CASE WHEN r.slice = mine[1] THEN left_over % cardinality(mine) ELSE 0 END
        WHERE r.queue = asked.name AND r.slice = ANY (mine);
    END IF;
    RETURN left_over >= 0;
END
$$;

-- Let so many jobs into a queue, or tell what it asks for when it is full: NULL is in, 'never' is that
-- no queue of that depth could ever take so many. Whoever is let in must enqueue in this transaction;
-- its rollback gives the room back.
CREATE FUNCTION {soniq}.admit(queue text, number integer) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    asked {soniq}.queues;
BEGIN
    SELECT * INTO asked FROM {soniq}.queues q
    WHERE q.name = admit.queue AND q.max_depth IS NOT NULL;
    IF NOT FOUND OR {soniq}.take_room(asked.name, admit.number, asked.changed_at) THEN
        RETURN NULL;
    ELSIF admit.number > asked.max_depth THEN
        RETURN 'never';
    END IF;
    -- One counts at a time; whoever waited may find room in what the other left. A refusal is undone,
    -- which gives the locks back: the transaction that it is in may go on for long.
    BEGIN
        PERFORM pg_advisory_xact_lock(hashtextextended({channel} || ':room:' || asked.name, 0));
        IF NOT {soniq}.take_room(asked.name, admit.number, asked.changed_at)
                AND NOT {soniq}.count_room(asked, admit.number) THEN
            RAISE EXCEPTION USING ERRCODE = 'SQ001';
        END IF;
        RETURN NULL;
    EXCEPTION WHEN SQLSTATE 'SQ001' THEN
        RETURN asked.on_full;
    END;
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
