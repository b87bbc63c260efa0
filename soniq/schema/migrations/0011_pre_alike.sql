-- What most enqueues with keys ask for, by fewer and cheaper steps: one job that is due now, and many
-- of one kind.

-- Enqueue one job with a key that is due now; without a key of its own, its arguments are the key. No
-- row comes back if it was stored; else what `enqueue_keyed` would tell of it.
CREATE FUNCTION {soniq}.enqueue_one(
    id uuid, task text, queue text, args jsonb, priority smallint, max_attempts integer, gate text,
    key text, rule jsonb, notify text
) RETURNS TABLE (job_id uuid, outcome text)
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off AS $$
#variable_conflict use_variable
DECLARE
    wanted text := coalesce(
        'k:' || key, 'a:' || encode(sha256(convert_to(CAST(args AS text), 'UTF8')), 'hex'));
    held record;
BEGIN
    -- Most keys are new. Who finds one that is there does not wait here for whoever changes it.
    INSERT INTO {soniq}.keys AS k (task, key, holders, until)
    SELECT task, wanted, ARRAY[id], statement_timestamp()
        + make_interval(secs => CAST(rule ->> 'seconds' AS double precision))
    WHERE NOT EXISTS (
        SELECT FROM {soniq}.keys k WHERE k.task = enqueue_one.task AND k.key = wanted)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        held := {soniq}.take_key(id, task, wanted, rule, false);
        IF held.id IS NOT NULL THEN
            IF rule ->> 'conflict' = 'replace' AND held.state IN ('scheduled', 'queued') THEN
                RETURN QUERY SELECT e.job_id, e.outcome FROM {soniq}.enqueue_keyed(
                    jsonb_build_array(jsonb_build_object(
                        'id', id, 'task', task, 'queue', queue, 'args', args,
                        'priority', priority, 'max_attempts', max_attempts, 'gate', gate, 'unique',
                        rule || jsonb_strip_nulls(jsonb_build_object('key', key)))), notify) AS e
                WHERE e.outcome <> 'enqueued';
            ELSE
                job_id := held.id;
                outcome := CASE WHEN rule ->> 'conflict' = 'raise' THEN 'held' ELSE 'existing' END;
                RETURN NEXT;
            END IF;
            RETURN;
        END IF;
    END IF;
    INSERT INTO {soniq}.jobs (id, task, queue, args, priority, max_attempts, gate)
    VALUES (id, task, queue, args, priority, max_attempts, gate);
    -- `wake`, written out: to call it takes as long as the rest of this.
    IF notify = 'always' OR (notify = 'auto' AND EXISTS (
            SELECT FROM {soniq}.workers w
            WHERE w.idle AND (w.queues IS NULL OR queue = ANY (w.queues)))) THEN
        PERFORM pg_notify({channel}, 'q:' || queue);
    END IF;
END
$$;

-- Enqueue jobs of one kind with keys: all alike but for ids, arguments, keys and gates, so that a
-- statement for each step does for all of them. `common` is a job as `enqueue_keyed` takes it, without
-- those four; `jobs` has an object with them for each, and no "key" where the arguments are the key.
-- For rules that skip or raise, and mind both states of a job that waits.
--   It tells of those that were not stored: existing, and which job that is; with "raise" instead held,
--   and by which, of the first: then none of all was stored.
CREATE FUNCTION {soniq}.enqueue_alike(common jsonb, jobs jsonb, notify text)
RETURNS TABLE (place bigint, job_id uuid, outcome text)
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
DECLARE
    asked {soniq}.jobs := jsonb_populate_record(CAST(NULL AS {soniq}.jobs), common);
    minded text[] := ARRAY(SELECT jsonb_array_elements_text(common -> 'unique' -> 'states'));
    raises boolean := common -> 'unique' ->> 'conflict' = 'raise';
    due timestamptz := coalesce(
        CAST(common ->> 'moment' AS timestamptz),
        statement_timestamp() + make_interval(secs => CAST(common ->> 'delay' AS double precision)),
        statement_timestamp());
    mine timestamptz := statement_timestamp()
        + make_interval(secs => CAST(common -> 'unique' ->> 'seconds' AS double precision));
    -- Of the jobs that come first with their keys: in the order of the keys.
    places bigint[];
    ids uuid[];
    given jsonb[];
    gates text[];
    wanted text[];
    -- The others: after whom they come.
    later bigint[];
    earlier bigint[];
    -- Who has the keys of which.
    held bigint[];
    standing uuid[];
    had text[];
    more_held bigint[];
    more_standing uuid[];
BEGIN
    SELECT array_agg(f.n) FILTER (WHERE f.n = f.first), array_agg(f.id) FILTER (WHERE f.n = f.first),
        array_agg(f.args) FILTER (WHERE f.n = f.first),
        array_agg(f.gate) FILTER (WHERE f.n = f.first), array_agg(f.key) FILTER (WHERE f.n = f.first),
        array_agg(f.n) FILTER (WHERE f.n > f.first), array_agg(f.first) FILTER (WHERE f.n > f.first)
    INTO places, ids, given, gates, wanted, later, earlier
    FROM (
        SELECT w.n, w.id, w.args, w.gate, w.key,
            first_value(w.n) OVER (PARTITION BY w.key ORDER BY w.n) AS first
        FROM (
            SELECT j.n, j.id, j.args, j.gate, CASE WHEN j.key IS NOT NULL THEN 'k:' || j.key
                ELSE 'a:' || encode(sha256(convert_to(CAST(j.args AS text), 'UTF8')), 'hex')
                END COLLATE "C" AS key
            FROM ROWS FROM (jsonb_to_recordset(jobs) AS (id uuid, args jsonb, key text, gate text))
                WITH ORDINALITY AS j(id, args, key, gate, n)) AS w) AS f;
    -- A savepoint of our own, so that all or none is true in a caller's transaction as well.
    BEGIN
        -- What is known without a lock is told without one. OFFSET 0: by the index, one by one.
        SELECT array_agg(w.n), array_agg(h.id) INTO held, standing
        FROM unnest(places, wanted) AS w(n, key)
        CROSS JOIN LATERAL (
            SELECT k.holders, k.until FROM {soniq}.keys k
            WHERE k.task = asked.task AND k.key = w.key AND (k.until > statement_timestamp()
                OR EXISTS (SELECT FROM {soniq}.jobs j WHERE j.id = ANY (k.holders))) OFFSET 0) AS k
        CROSS JOIN LATERAL {soniq}.holder(k.holders, k.until, minded) AS h
        WHERE h.id IS NOT NULL;
        IF raises AND (held IS NOT NULL OR later IS NOT NULL) THEN
            RAISE EXCEPTION USING ERRCODE = 'SQ001';
        END IF;
        -- Always in the same order: two who want the same keys never wait for each other.
        WITH taken AS (
            INSERT INTO {soniq}.keys AS k (task, key, holders, until)
            SELECT asked.task, w.key, ARRAY[w.id], mine
            FROM unnest(places, wanted, ids) AS w(n, key, id)
            WHERE w.n NOT IN (SELECT unnest(held)) ORDER BY w.key COLLATE "C"
            ON CONFLICT ON CONSTRAINT keys_pkey DO UPDATE SET task = excluded.task
            RETURNING k.key, k.holders, k.until)
        SELECT array_agg(w.key) INTO had
        FROM taken t JOIN unnest(wanted, ids) AS w(key, id) ON t.key = w.key
        WHERE t.holders <> ARRAY[w.id] OR t.until IS DISTINCT FROM mine;
        IF had IS NOT NULL THEN
            -- A new statement sees whoever committed while we waited for the locks.
            SELECT array_agg(w.n), array_agg(h.id) INTO more_held, more_standing
            FROM unnest(places, wanted) AS w(n, key)
            JOIN unnest(had) AS d(key) ON d.key = w.key
            CROSS JOIN LATERAL (
                SELECT k.holders, k.until FROM {soniq}.keys k
                WHERE k.task = asked.task AND k.key = w.key AND (k.until > statement_timestamp()
                    OR EXISTS (SELECT FROM {soniq}.jobs j WHERE j.id = ANY (k.holders))) OFFSET 0) AS k
            CROSS JOIN LATERAL {soniq}.holder(k.holders, k.until, minded) AS h
            WHERE h.id IS NOT NULL;
            held := held || more_held;
            standing := standing || more_standing;
            IF raises AND held IS NOT NULL THEN
                RAISE EXCEPTION USING ERRCODE = 'SQ001';
            END IF;
            -- Whoever ended is dropped. By the key's index, whatever the planner thinks.
            INSERT INTO {soniq}.keys AS k (task, key, holders, until)
            SELECT asked.task, w.key, ARRAY[w.id], mine
            FROM unnest(places, wanted, ids) AS w(n, key, id)
            JOIN unnest(had) AS d(key) ON d.key = w.key
            WHERE w.n NOT IN (SELECT unnest(held))
            ON CONFLICT ON CONSTRAINT keys_pkey DO UPDATE SET until = excluded.until, holders = ARRAY(
                SELECT j.id FROM {soniq}.jobs j WHERE j.id = ANY (k.holders)
                ORDER BY array_position(k.holders, j.id)) || excluded.holders;
        END IF;
    EXCEPTION WHEN SQLSTATE 'SQ001' THEN
        RETURN QUERY
            SELECT t.n, t.id, 'held' FROM (
                SELECT h.n, h.id FROM unnest(held, standing) AS h(n, id)
                UNION ALL
                SELECT l.n, f.id FROM unnest(later, earlier) AS l(n, first)
                JOIN unnest(places, ids) AS f(n, id) ON f.n = l.first
                WHERE l.first NOT IN (SELECT unnest(held))) AS t
            ORDER BY t.n LIMIT 1;
        RETURN;
    END;
    INSERT INTO {soniq}.jobs (id, task, queue, args, state, priority, scheduled_at, max_attempts,
        timeout_seconds, tags, trace, gate)
    SELECT w.id, asked.task, asked.queue, w.args,
        CASE WHEN due > statement_timestamp() THEN 'scheduled' ELSE 'queued' END,
        asked.priority, due, asked.max_attempts,
        CAST(common ->> 'timeout' AS double precision), asked.tags, asked.trace, w.gate
    FROM unnest(places, ids, given, gates) AS w(n, id, args, gate)
    WHERE w.n NOT IN (SELECT unnest(held)) ORDER BY w.n;
    IF FOUND AND due < statement_timestamp() + interval '6 seconds' THEN
        PERFORM {soniq}.wake(
            CASE WHEN due > statement_timestamp() THEN '*' ELSE asked.queue END, notify);
    END IF;
    RETURN QUERY
        SELECT h.n, h.id, 'existing' FROM unnest(held, standing) AS h(n, id)
        UNION ALL
        SELECT l.n, coalesce(h.id, f.id), 'existing' FROM unnest(later, earlier) AS l(n, first)
        JOIN unnest(places, ids) AS f(n, id) ON f.n = l.first
        LEFT JOIN unnest(held, standing) AS h(n, id) ON h.n = l.first;
END
$$;
