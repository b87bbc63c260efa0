-- Limits. A job behind a gate is not claimed as others are: its index is another, so that it is in
-- nobody's way, however long it waits. NULL is no gate; 't' is its task's; 'k' and a key, or 'o' and
-- a key, is that of one key of its task, with 'o' for keys whose jobs run in the order of their enqueue.
ALTER TABLE {soniq}.jobs ADD COLUMN gate text COLLATE "C";

DROP INDEX {soniq}.jobs_claim;
CREATE INDEX jobs_claim ON {soniq}.jobs (queue, priority, scheduled_at, id)
    WHERE state = 'queued' AND gate IS NULL;
CREATE INDEX jobs_gated ON {soniq}.jobs (queue, task, gate, priority, scheduled_at, id)
    WHERE state = 'queued' AND gate IS NOT NULL;
-- Those that run, and, for keys in order, those that wait for a retry and hold the others. A
-- constraint says that just those that run have a worker: so written, no statement can be answered
-- from jobs_running or jobs_due, which statistics, always wrong for a queue, may promise to be empty.
CREATE INDEX jobs_behind ON {soniq}.jobs (task, gate)
    WHERE worker_id IS NOT NULL AND gate IS NOT NULL;
CREATE INDEX jobs_held ON {soniq}.jobs (task, gate)
    WHERE worker_id IS NULL AND state <> 'queued' AND gate >= 'o' AND gate < 'p';

-- What tasks with limits declared last, in the row with key ''; and what must be remembered of a
-- task, or of one key of it: how much of a rate is spent, and what failed. A claim holds the lock of
-- its task's row while it counts and takes, and nobody waits for that lock.
CREATE TABLE {soniq}.gates (
    task text NOT NULL,
    key text COLLATE "C" NOT NULL DEFAULT '',
    concurrency integer CHECK (concurrency >= 1),
    key_concurrency integer CHECK (key_concurrency >= 1),
    -- One job in so many seconds, and so many at once after a rest; of the task, or of each key.
    rate_seconds double precision CHECK (rate_seconds > 0),
    rate_burst integer CHECK (rate_burst >= 1),
    rate_by_key boolean NOT NULL DEFAULT false,
    -- So many failures within the window close the gate for the pause; of the task, or of a key.
    breaker_failures integer CHECK (breaker_failures BETWEEN 1 AND 1000),
    breaker_window double precision CHECK (breaker_window > 0),
    breaker_pause double precision CHECK (breaker_pause > 0),
    breaker_by_key boolean NOT NULL DEFAULT false,
    declared_at timestamptz,
    spent_until timestamptz,
    failed_at timestamptz[],
    closed_until timestamptz,
    probe uuid,
    PRIMARY KEY (task, key)
) WITH (fillfactor = 50);

-- Claims look for what is closed in each of their tasks, which may remember many keys.
CREATE INDEX gates_closed ON {soniq}.gates (task, key) WHERE closed_until IS NOT NULL;

-- Seconds of a rate that are spent: at most those of its burst. What says far more is of a slower
-- rate, or of a clock that was set back since: it is void. Written so that
-- it becomes part of the statements that call it, as are the two that follow.
CREATE FUNCTION {soniq}.rate_debt(
    pace double precision, burst integer, spent_until timestamptz, at timestamptz
) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN spent_until > at
                     AND extract(epoch FROM spent_until - at) <= 2 * burst * pace + 1
                THEN CAST(extract(epoch FROM spent_until - at) AS double precision) ELSE 0 END
$$;

-- Of what is spent, how many jobs may start, and in how many seconds the next may.
CREATE FUNCTION {soniq}.rate_left(pace double precision, burst integer, debt double precision)
RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CAST(greatest(0, floor(burst - debt / pace + 1e-6)) AS integer)
$$;
CREATE FUNCTION {soniq}.rate_wait(pace double precision, burst integer, debt double precision)
RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT greatest(0, debt - (burst - 1) * pace)
$$;

-- Both. A function in SQL with two answers would be planned at each call.
CREATE FUNCTION {soniq}.rate_room(
    pace double precision, burst integer, spent_until timestamptz, at timestamptz,
    OUT room integer, OUT wait_seconds double precision
) LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    debt double precision := {soniq}.rate_debt(pace, burst, spent_until, at);
BEGIN
    room := {soniq}.rate_left(pace, burst, debt);
    wait_seconds := {soniq}.rate_wait(pace, burst, debt);
END
$$;

-- How many jobs of a rate a worker may take that has so many slots: those it can start at once, or
-- what the rate gives in a tenth of a second. More would wait, and start with what comes later.
CREATE FUNCTION {soniq}.rate_ahead(pace double precision, slots integer) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT greatest(1, slots, CAST(least(1e6, floor(0.1 / pace)) AS integer))
$$;

-- The queues and tasks with jobs behind gates, and queues with limits of their own and jobs without
-- gates (no task), in the order of their turns.
CREATE FUNCTION {soniq}.gated_lanes(served text[], known text[], turn text)
RETURNS TABLE (queue text, task text, name text, turns_left bigint)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH RECURSIVE worked AS (
        SELECT (SELECT j.queue FROM {soniq}.jobs j
                WHERE j.state = 'queued' AND j.gate IS NOT NULL ORDER BY j.queue LIMIT 1) AS name
        WHERE cardinality(served) = 0
        UNION ALL
        SELECT (SELECT j.queue FROM {soniq}.jobs j
                WHERE j.state = 'queued' AND j.gate IS NOT NULL AND j.queue > worked.name
                ORDER BY j.queue LIMIT 1)
        FROM worked WHERE worked.name IS NOT NULL),
    lane AS (
        SELECT s.name AS queue, (
            SELECT j.task FROM {soniq}.jobs j
            WHERE j.state = 'queued' AND j.gate IS NOT NULL AND j.queue = s.name
            ORDER BY j.task LIMIT 1) AS task
        FROM (SELECT w.name FROM worked w WHERE w.name IS NOT NULL
              UNION ALL SELECT unnest(served)) AS s(name)
        UNION ALL
        SELECT lane.queue, (
            SELECT j.task FROM {soniq}.jobs j
            WHERE j.state = 'queued' AND j.gate IS NOT NULL AND j.queue = lane.queue
              AND j.task > lane.task
            ORDER BY j.task LIMIT 1)
        FROM lane WHERE lane.task IS NOT NULL)
    SELECT n.queue, n.task, n.name, count(*) OVER () - row_number() OVER turns + 1
    FROM (
        SELECT l.queue, l.task, l.queue || ' ' || l.task COLLATE "C" AS name
        FROM lane l WHERE l.task = ANY (known)
        UNION ALL
        SELECT q.name, NULL, q.name || ' ' FROM {soniq}.queues q
        WHERE (q.concurrency IS NOT NULL OR q.rate_count IS NOT NULL)
          AND (cardinality(served) = 0 OR q.name = ANY (served))
          AND (SELECT j.id FROM {soniq}.jobs j
               WHERE j.state = 'queued' AND j.gate IS NULL AND j.queue = q.name
               ORDER BY j.priority, j.scheduled_at, j.id LIMIT 1) IS NOT NULL) AS n
    WHERE NOT EXISTS (
        SELECT FROM {soniq}.queues q
        WHERE q.name = n.queue AND q.paused
          AND (q.paused_until IS NULL OR q.paused_until > statement_timestamp()))
    WINDOW turns AS (ORDER BY n.name <= turn, n.name)
    ORDER BY row_number() OVER turns;
END
$$;

-- The next keys of a task, above `after`, that have jobs in a queue and room for them: `wanted`
-- keys at most, among `most` looked at. `upto` is where to go on: NULL at the end. What a
-- key has left of its rate is reckoned only where keys have one.
CREATE FUNCTION {soniq}.open_keys(
    declared {soniq}.gates, queue text, after text, wanted integer, most integer, at timestamptz,
    OUT keys text[], OUT rooms integer[], OUT upto text, OUT wait_seconds double precision
) LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_variable
BEGIN
    WITH RECURSIVE running AS MATERIALIZED (
        SELECT j.gate, count(*) AS number FROM {soniq}.jobs j
        WHERE j.task = declared.task AND j.worker_id IS NOT NULL AND j.gate IS NOT NULL
        GROUP BY j.gate),
    visited AS (
        SELECT (SELECT j.gate FROM {soniq}.jobs j
                WHERE j.state = 'queued' AND j.gate IS NOT NULL AND j.queue = open_keys.queue
                  AND j.task = declared.task AND j.gate > open_keys.after
                ORDER BY j.gate LIMIT 1) AS gate, 1 AS step
        UNION ALL
        SELECT (SELECT j.gate FROM {soniq}.jobs j
                WHERE j.state = 'queued' AND j.gate IS NOT NULL AND j.queue = open_keys.queue
                  AND j.task = declared.task AND j.gate > v.gate
                ORDER BY j.gate LIMIT 1), v.step + 1
        FROM visited v WHERE v.gate IS NOT NULL AND v.step < most),
    judged AS MATERIALIZED (  -- or each use of `room` would reckon it anew
        SELECT v.gate, v.step, greatest(
            CASE WHEN declared.rate_by_key THEN {soniq}.rate_wait(
                declared.rate_seconds, declared.rate_burst, coalesce(k.debt, 0)) END,
            CAST(extract(epoch FROM k.closed_until - at) AS double precision)) AS wait_seconds,
            least(
            CASE WHEN v.gate < 'o' THEN declared.key_concurrency WHEN v.gate < 'p' THEN 1 END
                - coalesce(r.number, 0),
            CASE WHEN v.gate >= 'o' AND v.gate < 'p' AND EXISTS (
                SELECT FROM {soniq}.jobs h
                WHERE h.worker_id IS NULL AND h.state <> 'queued'
                  AND h.gate >= 'o' AND h.gate < 'p'
                  AND h.task = declared.task AND h.gate = v.gate
                  AND (h.attempt > 0 OR h.snoozes > 0)) THEN 0 END,
            CASE WHEN k.closed_until > at THEN 0
                 WHEN k.closed_until IS NOT NULL THEN CAST(k.probe IS NULL AS integer) END,
            CASE WHEN declared.rate_by_key THEN {soniq}.rate_left(
                declared.rate_seconds, declared.rate_burst, coalesce(k.debt, 0)) END,
            wanted) AS room
        FROM visited v
        LEFT JOIN running r ON r.gate = v.gate
        LEFT JOIN LATERAL (
            SELECT g.probe,
                   CASE WHEN declared.breaker_by_key THEN g.closed_until END AS closed_until,
                   CASE WHEN declared.rate_by_key THEN {soniq}.rate_debt(
                       declared.rate_seconds, declared.rate_burst, g.spent_until, at) END AS debt
            FROM {soniq}.gates g
            WHERE g.task = declared.task AND g.key = v.gate
              AND (declared.rate_by_key OR declared.breaker_by_key)
            OFFSET 0) AS k ON true  -- which keeps it to one look for each key
        WHERE v.gate IS NOT NULL),
    placed AS (
        SELECT j.gate, j.step, j.room, j.wait_seconds,
               count(*) FILTER (WHERE j.room > 0) OVER (ORDER BY j.step) AS place
        FROM judged j)
    SELECT array_agg(p.gate ORDER BY p.step) FILTER (WHERE p.room > 0 AND p.place <= wanted),
           array_agg(p.room ORDER BY p.step) FILTER (WHERE p.room > 0 AND p.place <= wanted),
           CASE WHEN max(p.place) >= wanted THEN max(p.gate) FILTER (WHERE p.place <= wanted)
                WHEN max(p.step) = most THEN max(p.gate) END,
           min(p.wait_seconds) FILTER (WHERE p.room <= 0 AND p.wait_seconds > 0)
    INTO keys, rooms, upto, wait_seconds
    FROM placed p;
END
$$;

-- Lock a row of limits, for whoever claims: that of a task (key ''), or of a queue (task '', and the
-- queue as the key). NULL is that another has it.
CREATE FUNCTION {soniq}.locked_gate(task text, key text) RETURNS {soniq}.gates
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    found_gate {soniq}.gates;
BEGIN
    FOR attempt IN 1..2 LOOP
        SELECT * INTO found_gate FROM {soniq}.gates g
        WHERE g.task = locked_gate.task AND g.key = locked_gate.key
        FOR NO KEY UPDATE SKIP LOCKED;
        EXIT WHEN FOUND OR EXISTS (
            SELECT FROM {soniq}.gates g
            WHERE g.task = locked_gate.task AND g.key = locked_gate.key)
            -- Else two that insert the same row would wait for each other's end.
            OR NOT pg_try_advisory_xact_lock(hashtextextended(
                {channel} || ':gate:' || locked_gate.task || ' ' || locked_gate.key, 0));
        INSERT INTO {soniq}.gates (task, key) VALUES (locked_gate.task, locked_gate.key)
        ON CONFLICT DO NOTHING;
    END LOOP;
    RETURN found_gate;
END
$$;

-- How many more jobs of a queue may run, and in how many seconds more may; NULL is any number. Of its
-- rate, if it has one, each of them spends `pace`.
CREATE FUNCTION {soniq}.queue_room(
    queue text, OUT room integer, OUT wait_seconds double precision, OUT pace double precision,
    OUT burst integer
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_variable
DECLARE
    said record;
    gate {soniq}.gates;
    rate record;
BEGIN
    SELECT q.concurrency, q.rate_seconds / q.rate_count AS pace, q.rate_burst INTO said
    FROM {soniq}.queues q
    WHERE q.name = queue AND (q.concurrency IS NOT NULL OR q.rate_count IS NOT NULL);
    IF NOT FOUND THEN
        RETURN;
    END IF;
    gate := {soniq}.locked_gate('', queue);
    IF gate.task IS NULL THEN
        room := 0;
        wait_seconds := 0;
        RETURN;
    END IF;
    IF said.concurrency IS NOT NULL THEN
        SELECT greatest(0, said.concurrency - count(*)) INTO room
        FROM {soniq}.jobs j WHERE j.state = 'processing' AND j.queue = queue_room.queue;
    END IF;
    IF said.pace IS NOT NULL THEN
        pace := said.pace;
        burst := coalesce(
            said.rate_burst, CAST(greatest(1, floor(0.1 / pace + 1e-9)) AS integer));
        rate := {soniq}.rate_room(pace, burst, gate.spent_until, clock_timestamp());
        room := least(room, rate.room);
        wait_seconds := CASE WHEN rate.room <= 0 THEN rate.wait_seconds END;
    END IF;
END
$$;

-- How many more jobs of a task may run, whatever their keys, and in how many seconds more may; NULL
-- is any number.
CREATE FUNCTION {soniq}.task_room(
    declared {soniq}.gates, at timestamptz, OUT room integer, OUT wait_seconds double precision
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_variable
DECLARE
    rate record;
BEGIN
    IF declared.breaker_failures IS NOT NULL AND NOT declared.breaker_by_key THEN
        IF declared.closed_until > at THEN
            room := 0;
            wait_seconds := extract(epoch FROM declared.closed_until - at);
            RETURN;
        ELSIF declared.closed_until IS NOT NULL THEN
            room := CAST(declared.probe IS NULL AS integer);
        END IF;
    END IF;
    IF declared.concurrency IS NOT NULL THEN
        SELECT least(room, greatest(0, declared.concurrency - count(*))) INTO room
        FROM {soniq}.jobs j
        WHERE j.task = declared.task AND j.worker_id IS NOT NULL AND j.gate IS NOT NULL;
    END IF;
    IF declared.rate_seconds IS NOT NULL AND NOT declared.rate_by_key THEN
        rate := {soniq}.rate_room(
            declared.rate_seconds, declared.rate_burst, declared.spent_until, at);
        room := least(room, rate.room);
        wait_seconds := CASE WHEN rate.room <= 0 THEN rate.wait_seconds END;
    END IF;
END
$$;

-- Count jobs of a queue that were started against its rate; a NULL pace is no rate.
CREATE FUNCTION {soniq}.spend(queue text, number integer, pace double precision, burst integer)
RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    at timestamptz := clock_timestamp();
BEGIN
    IF number > 0 AND pace IS NOT NULL THEN
        UPDATE {soniq}.gates g SET spent_until = at + make_interval(
            secs => number * pace + {soniq}.rate_debt(pace, burst, g.spent_until, at))
        WHERE g.task = '' AND g.key = spend.queue;
    END IF;
END
$$;

-- Count jobs of a task that were started, against its rate and at what failures have closed: there
-- they try whether it may open. `places` tells which of the keys each of them has. In the
-- order in which failures note them, whatever the order of the database's texts is.
CREATE FUNCTION {soniq}.note_starts(
    declared {soniq}.gates, ids uuid[], keys text[], places integer[], at timestamptz
) RETURNS void LANGUAGE sql VOLATILE AS $$
    INSERT INTO {soniq}.gates AS g (task, key, spent_until, probe)
    SELECT declared.task, s.key, at + make_interval(secs => s.number * declared.rate_seconds),
           s.first
    FROM (
        SELECT keys[t.place] AS key, count(*) AS number, (array_agg(t.id))[1] AS first,
               declared.rate_by_key AS rated
        FROM unnest(ids, places) AS t(id, place) GROUP BY t.place
        UNION ALL
        SELECT '', cardinality(ids), ids[1],
               declared.rate_seconds IS NOT NULL AND NOT declared.rate_by_key) AS s
    WHERE s.rated OR EXISTS (
        SELECT FROM {soniq}.gates k
        WHERE k.task = declared.task AND k.key = s.key AND k.closed_until IS NOT NULL)
    ORDER BY s.key COLLATE "C"
    ON CONFLICT (task, key) DO UPDATE SET
        spent_until = excluded.spent_until + make_interval(secs => {soniq}.rate_debt(
            declared.rate_seconds, declared.rate_burst, g.spent_until, at)),
        probe = CASE WHEN g.closed_until IS NOT NULL THEN excluded.probe END
$$;

-- What became of jobs that tried whether a gate that failures had closed may open; the keys of those
-- that do. It opens where one has gone, for a failure would have closed it again; where one only
-- went back, or its worker died, another will try. A gate that is closed for longer than a pause is
-- so by a longer one, or by a clock that was set back since: it may be tried.
CREATE FUNCTION {soniq}.settle_probes(declared {soniq}.gates, at timestamptz) RETURNS SETOF text
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE {soniq}.gates g SET closed_until = settle_probes.at
    WHERE g.task = declared.task
      AND g.closed_until > settle_probes.at
          + make_interval(secs => 2 * declared.breaker_pause + 1);
    RETURN QUERY
    WITH tried AS (
        SELECT g.task, g.key, g.probe FROM {soniq}.gates g
        WHERE g.task = declared.task AND g.closed_until <= settle_probes.at
          AND g.probe IS NOT NULL
        FOR NO KEY UPDATE SKIP LOCKED),
    told AS (
        SELECT t.task, t.key, j.id IS NULL AND NOT EXISTS (
            SELECT FROM {soniq}.dead_letters d
            WHERE d.id = t.probe AND d.attempts -> -1 ->> 'outcome' = 'worker_lost') AS well
        FROM tried t LEFT JOIN {soniq}.jobs j ON j.id = t.probe
        WHERE j.worker_id IS NULL),
    settled AS (
        UPDATE {soniq}.gates g SET
            probe = NULL,
            closed_until = CASE WHEN told.well THEN NULL ELSE g.closed_until END,
            failed_at = CASE WHEN told.well THEN NULL ELSE g.failed_at END
        FROM told WHERE g.task = told.task AND g.key = told.key
        RETURNING g.key, told.well)
    SELECT s.key FROM settled s WHERE s.well;
END
$$;

-- The same for all tasks, where no claim does it because no job waits; the tasks and keys that open.
CREATE FUNCTION {soniq}.settle_gates() RETURNS TABLE (task text, key text)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    declared {soniq}.gates;
BEGIN
    FOR declared IN
        SELECT d.* FROM {soniq}.gates d
        WHERE d.key = '' AND d.breaker_failures IS NOT NULL AND d.task IN (
            SELECT c.task FROM {soniq}.gates c WHERE c.closed_until IS NOT NULL)
        ORDER BY d.task FOR NO KEY UPDATE OF d SKIP LOCKED
    LOOP
        RETURN QUERY
        SELECT declared.task, s.key
        FROM {soniq}.settle_probes(declared, clock_timestamp()) AS s(key);
    END LOOP;
END
$$;

-- Note that attempts of a worker's jobs have failed, before their endings are written: the last of
-- too many closes their gate, and so does one that tried it. Answers what this closed, for how long,
-- and whether it was closed before.
CREATE FUNCTION {soniq}.note_failures(worker uuid, ids uuid[])
RETURNS TABLE (task text, key text, seconds double precision, again boolean)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
    -- Whoever has the lock of a task's row may lock the rows of its keys: a claim has it, too.
    PERFORM FROM {soniq}.gates g
    WHERE g.key = '' AND g.breaker_failures IS NOT NULL AND g.task IN (
        SELECT j.task FROM {soniq}.jobs j
        WHERE j.id = ANY (note_failures.ids) AND j.worker_id = note_failures.worker)
    ORDER BY g.task FOR NO KEY UPDATE;
    RETURN QUERY
    WITH noted AS (
        INSERT INTO {soniq}.gates AS g (
            task, key, breaker_failures, breaker_window, breaker_pause, failed_at, closed_until)
        SELECT f.task, f.key, f.failures, f.window_seconds, f.pause, f.moments,
               CASE WHEN cardinality(f.moments) >= f.failures
                    THEN clock_timestamp() + make_interval(secs => f.pause) END
        FROM (
            SELECT d.task, CASE WHEN d.breaker_by_key THEN coalesce(j.gate, '') ELSE '' END AS key,
                   d.breaker_failures AS failures, d.breaker_window AS window_seconds,
                   d.breaker_pause AS pause, array_agg(clock_timestamp()) AS moments
            FROM {soniq}.jobs j
            JOIN {soniq}.gates d ON d.task = j.task AND d.key = ''
            WHERE j.id = ANY (note_failures.ids) AND j.worker_id = note_failures.worker
              AND d.breaker_failures IS NOT NULL
            GROUP BY 1, 2, 3, 4, 5) AS f
        ORDER BY f.task, f.key
        ON CONFLICT (task, key) DO UPDATE SET
            (failed_at, closed_until, probe) = (
                SELECT l.last,
                       CASE WHEN l.closes
                            THEN clock_timestamp() + make_interval(secs => excluded.breaker_pause)
                            ELSE g.closed_until END,
                       CASE WHEN l.closes THEN NULL ELSE g.probe END
                FROM (
                    SELECT m.last, coalesce(g.closed_until <= clock_timestamp(), false) OR (
                        g.closed_until IS NULL
                        AND cardinality(m.last) >= excluded.breaker_failures
                        AND m.last[1] >= clock_timestamp()
                            - make_interval(secs => excluded.breaker_window)) AS closes
                    FROM (
                        SELECT array_agg(w.moment ORDER BY w.moment) AS last
                        FROM (
                            SELECT u.moment
                            FROM unnest(g.failed_at || excluded.failed_at) AS u(moment)
                            ORDER BY u.moment DESC LIMIT excluded.breaker_failures) AS w) AS m) AS l)
        RETURNING g.task, g.key, g.closed_until)
    SELECT n.task, n.key, d.breaker_pause, b.closed_until IS NOT NULL
    FROM noted n
    JOIN {soniq}.gates d ON d.task = n.task AND d.key = ''
    LEFT JOIN {soniq}.gates b ON b.task = n.task AND b.key = n.key  -- as it was before
    WHERE n.closed_until IS NOT NULL AND n.closed_until IS DISTINCT FROM b.closed_until;
END
$$;

-- Take jobs without gates from a queue that has a limit, for whoever holds its lock.
CREATE FUNCTION {soniq}.claim_of_queue(
    worker uuid, source text, known text[], wanted integer, slots integer, most_bytes bigint
) RETURNS TABLE (
    id text, task text, queue text, args text, attempt integer, max_attempts integer,
    snoozes integer, priority smallint, scheduled_at timestamptz, created_at timestamptz,
    timeout_seconds double precision, tags text, trace text, cancel_requested boolean,
    found_seconds double precision, gate text, mark text, wait_seconds double precision
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH picked AS MATERIALIZED (
        SELECT j.id,
            CASE WHEN pg_column_size(j.args) > 500 THEN octet_length(CAST(j.args AS text))
                 ELSE pg_column_size(j.args) END AS size
        FROM {soniq}.jobs j
        WHERE j.state = 'queued' AND j.gate IS NULL AND j.queue = source
          AND j.task = ANY (known)
        ORDER BY j.priority, j.scheduled_at, j.id
        LIMIT wanted
        FOR UPDATE SKIP LOCKED)
    UPDATE {soniq}.jobs t SET
        state = 'processing', attempt = t.attempt + 1, worker_id = worker,
        started_at = statement_timestamp()
    WHERE t.id = ANY (ARRAY (
        SELECT b.id FROM (
            SELECT p.id, row_number() OVER () AS place,
                   sum(p.size) OVER (ROWS UNBOUNDED PRECEDING) AS upto
            FROM picked p) AS b
        WHERE b.place <= slots OR b.upto <= most_bytes))
    RETURNING CAST(t.id AS text), t.task, t.queue, CAST(t.args AS text), t.attempt,
        t.max_attempts, t.snoozes, t.priority, t.scheduled_at, t.created_at, t.timeout_seconds,
        CAST(to_jsonb(t.tags) AS text), CAST(t.trace AS text), t.cancel_requested,
        CAST(0 AS double precision), CAST(NULL AS text), CAST(NULL AS text),
        CAST(NULL AS double precision);
END
$$;

-- Choose jobs of a task in a queue and lock them: of each key in turn, as many as its turn has.
--   keys, rooms: the keys that have a turn, in order, and how many jobs of each may run.
--   had: how many the first of them has had of its turn in the claim before.
--   weights: turns of keys where that is not one. each_less: the least of them, at most one.
--   stopped: the place of the key in whose turn there was no more room, and what it has had of it;
--   NULL is that all had their turns.
CREATE FUNCTION {soniq}.pick_in_turn(
    declared {soniq}.gates, queue text, keys text[], rooms integer[], had integer, weights jsonb,
    room integer, slots integer, most_bytes bigint,
    OUT ids uuid[], OUT places integer[], OUT stopped integer, OUT has_had integer
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_variable
DECLARE
    least_weight double precision := 1;
    allotted integer[];
    found_number integer;
    number integer;
BEGIN
    IF weights IS NOT NULL THEN
        SELECT least(1, min(CAST(w.value AS double precision))) INTO least_weight
        FROM jsonb_each_text(weights) AS w;
    END IF;
    WITH turn AS (
        SELECT k.gate, k.room, CAST(k.place AS integer) AS place, greatest(1, coalesce(
                CAST(weights ->> k.gate AS double precision), 1) / least_weight) AS size
        FROM unnest(keys, rooms) WITH ORDINALITY AS k(gate, room, place)),
    share AS (SELECT greatest(1, room / sum(t.size)) AS rounds FROM turn t),
    allotment AS (
        -- `rooms` says no more than there is room in all, which is no bound of the key's own.
        SELECT t.gate, t.place, least(
            CASE WHEN t.room < room THEN t.room END,
            greatest(1, CAST(floor(t.size * s.rounds) AS integer)
                - CASE WHEN t.place = 1 THEN had ELSE 0 END)) AS number
        FROM turn t CROSS JOIN share s ORDER BY t.place),
    picked AS MATERIALIZED (
        SELECT p.id, p.size, a.place, a.number
        FROM allotment a
        CROSS JOIN LATERAL (
            SELECT j.id,
                CASE WHEN pg_column_size(j.args) > 500 THEN octet_length(CAST(j.args AS text))
                     ELSE pg_column_size(j.args) END AS size
            FROM {soniq}.jobs j
            WHERE j.state = 'queued' AND j.gate IS NOT NULL AND j.queue = pick_in_turn.queue
              AND j.task = declared.task AND j.gate = a.gate
            ORDER BY j.priority, j.scheduled_at, j.id
            LIMIT a.number
            FOR UPDATE SKIP LOCKED) AS p
        LIMIT room),
    counted AS (
        SELECT p.id, p.place, p.number, row_number() OVER () AS row,
               sum(p.size) OVER (ROWS UNBOUNDED PRECEDING) AS upto
        FROM picked p),
    fitting AS (
        SELECT c.id, c.place, c.number, c.row, c.row <= slots OR c.upto <= most_bytes AS fits
        FROM counted c)
    SELECT array_agg(f.id ORDER BY f.row) FILTER (WHERE f.fits),
           array_agg(f.place ORDER BY f.row) FILTER (WHERE f.fits),
           array_agg(f.number ORDER BY f.row) FILTER (WHERE f.fits), count(*)
    INTO ids, places, allotted, found_number FROM fitting f;
    number := cardinality(ids);
    IF number < found_number OR number = room THEN
        stopped := places[number];
        has_had := cardinality(array_positions(places, stopped));
        IF has_had >= allotted[number] THEN
            has_had := 0;
        ELSIF stopped = 1 THEN
            has_had := has_had + had;
        END IF;
    END IF;
END
$$;

-- Take jobs that wait behind gates, for a worker: from each queue and task in turn, and there from
-- each key in turn. Rows with an id are jobs taken. Of each queue and task that was looked at, a row
-- without tells in `mark` where to go on among its keys, and when to come again: 0 is at once, NULL
-- is when something happens. A row with a gate and no id tells that a job went well there, which
-- failures had closed.
--   served: queues of which to take, all if empty. known: tasks that the worker has.
--   wanted: jobs to take; of more than `slots`, as many as their arguments stay within most_bytes,
--     and of what has a rate no more than starts in a moment: see rate_ahead.
--   turn: what had the last turn. marks: where to go on: what the next key has had of its turn, and
--   after which it comes. weights: keys with more turns than one.
-- Keys are compared in the order of their index. To plan these statements takes longer than some of
-- them take, so their plans are kept.
CREATE FUNCTION {soniq}.claim_gated(
    worker uuid, served text[], known text[], wanted integer, slots integer, most_bytes bigint,
    turn text, marks jsonb, weights jsonb
) RETURNS TABLE (
    id text, task text, queue text, args text, attempt integer, max_attempts integer,
    snoozes integer, priority smallint, scheduled_at timestamptz, created_at timestamptz,
    timeout_seconds double precision, tags text, trace text, cancel_requested boolean,
    found_seconds double precision, gate text, mark text, wait_seconds double precision
) LANGUAGE plpgsql VOLATILE SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    v_lane record;
    v_gate {soniq}.gates;
    v_keys text[];
    v_rooms integer[];
    v_later double precision;
    v_now timestamptz;
    v_queue record;
    v_picked record;
    v_left integer := wanted;
    v_free integer;
    v_room integer;
    v_taken integer;
    v_whole boolean;
    v_most integer;
    v_wait double precision;
    v_mark text[];
    v_had integer;
    v_after text;
BEGIN
    -- What is counted after a lock was had must be what was committed before it was given.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'soniq: limits need transactions that are read committed'
            USING ERRCODE = '25001';
    END IF;
    FOR v_lane IN SELECT * FROM {soniq}.gated_lanes(served, known, turn) LOOP
        EXIT WHEN v_left <= 0;
        id := NULL; queue := v_lane.queue; task := v_lane.task; gate := NULL;
        mark := coalesce(marks ->> v_lane.name, ''); wait_seconds := 0;
        v_room := ceil(v_left / CAST(v_lane.turns_left AS numeric));
        v_free := slots - (wanted - v_left);
        v_queue := {soniq}.queue_room(v_lane.queue);
        IF v_queue.room <= 0 THEN
            wait_seconds := v_queue.wait_seconds;
            RETURN NEXT;
            CONTINUE;
        ELSIF v_queue.pace IS NOT NULL THEN
            v_room := least(v_room, {soniq}.rate_ahead(v_queue.pace, v_free));
        END IF;
        IF v_lane.task IS NULL THEN
            RETURN QUERY SELECT * FROM {soniq}.claim_of_queue(
                worker, v_lane.queue, known, least(v_room, v_queue.room), v_free, most_bytes);
            GET DIAGNOSTICS v_taken = ROW_COUNT;
            PERFORM {soniq}.spend(v_lane.queue, v_taken, v_queue.pace, v_queue.burst);
            v_left := v_left - v_taken;
            wait_seconds := CASE WHEN v_taken > 0 THEN 0 END;
            RETURN NEXT;
            CONTINUE;
        END IF;
        v_gate := {soniq}.locked_gate(v_lane.task, '');
        IF v_gate.task IS NULL THEN  -- another worker is at it
            RETURN NEXT;
            CONTINUE;
        END IF;
        v_now := clock_timestamp();
        IF v_gate.breaker_failures IS NOT NULL THEN
            v_mark := ARRAY[mark];
            mark := NULL; wait_seconds := NULL;
            FOR gate IN SELECT * FROM {soniq}.settle_probes(v_gate, v_now) LOOP
                RETURN NEXT;
            END LOOP;
            mark := v_mark[1]; gate := NULL;
            SELECT * INTO v_gate FROM {soniq}.gates g WHERE g.task = v_lane.task AND g.key = '';
        END IF;
        SELECT least(r.room, v_room, v_queue.room), r.wait_seconds
        INTO v_room, v_wait FROM {soniq}.task_room(v_gate, v_now) AS r;
        IF v_gate.rate_seconds IS NOT NULL THEN
            v_room := least(v_room, {soniq}.rate_ahead(v_gate.rate_seconds, v_free));
        END IF;
        v_mark := regexp_match(mark, '^(\d{1,6}) (.*)$', 's');
        v_had := coalesce(CAST(v_mark[1] AS integer), 0);
        v_after := coalesce(v_mark[2], '');
        v_whole := v_after = '';
        v_most := least(2 * v_room + 8, v_room + 32);
        v_taken := 0;
        v_keys := NULL;
        mark := v_after;
        WHILE v_room > 0 LOOP
            v_after := mark;
            SELECT o.keys, o.rooms, coalesce(o.upto, ''), o.wait_seconds
            INTO v_keys, v_rooms, mark, v_later
            FROM {soniq}.open_keys(v_gate, v_lane.queue, v_after, v_room, v_most, v_now) AS o;
            v_wait := least(v_wait, v_later);
            EXIT WHEN v_keys IS NOT NULL OR (v_whole AND mark = '');
            IF mark = '' THEN
                v_whole := true;
            ELSE
                v_most := 2 * v_most;
                EXIT WHEN v_most > 10000;
            END IF;
        END LOOP;
        -- At the end of the keys it goes on with the first, or the last would get what is left.
        IF mark = '' AND NOT v_whole AND cardinality(v_keys) < v_room THEN
            SELECT v_keys || array_agg(m.key ORDER BY m.place),
                   v_rooms || array_agg(m.room ORDER BY m.place),
                   CASE WHEN o.upto < v_after COLLATE "C" THEN o.upto ELSE v_after END, o.wait_seconds
            INTO v_keys, v_rooms, mark, v_later
            FROM {soniq}.open_keys(
                v_gate, v_lane.queue, '', v_room, v_most - cardinality(v_keys), v_now) AS o
            LEFT JOIN LATERAL unnest(o.keys, o.rooms) WITH ORDINALITY AS m(key, room, place)
                ON m.key <= v_after COLLATE "C"
            GROUP BY o.upto, o.wait_seconds;
            v_wait := least(v_wait, v_later);
        END IF;
        mark := CASE WHEN mark <> '' THEN '0 ' || mark ELSE '' END;
        IF v_keys IS NOT NULL THEN
            v_picked := {soniq}.pick_in_turn(
                v_gate, v_lane.queue, v_keys, v_rooms, v_had, weights -> v_lane.task, v_room,
                v_free, most_bytes);
            v_taken := coalesce(cardinality(v_picked.ids), 0);
            IF v_picked.has_had > 0 THEN
                mark := v_picked.has_had || ' ' || CASE
                    WHEN v_picked.stopped > 1 THEN v_keys[v_picked.stopped - 1] ELSE v_after END;
            ELSIF v_picked.stopped < cardinality(v_keys) THEN
                mark := '0 ' || v_keys[v_picked.stopped];
            END IF;
        END IF;
        IF v_taken > 0 THEN
            RETURN QUERY
            UPDATE {soniq}.jobs j SET
                state = 'processing', attempt = j.attempt + 1, worker_id = worker,
                started_at = statement_timestamp()
            WHERE j.id = ANY (v_picked.ids)
            RETURNING CAST(j.id AS text), j.task, j.queue, CAST(j.args AS text), j.attempt,
                j.max_attempts, j.snoozes, j.priority, j.scheduled_at, j.created_at,
                j.timeout_seconds, CAST(to_jsonb(j.tags) AS text), CAST(j.trace AS text),
                j.cancel_requested, CAST(0 AS double precision), CAST(j.gate AS text),
                CAST(NULL AS text), CAST(NULL AS double precision);
            IF v_gate.rate_seconds IS NOT NULL OR v_gate.breaker_failures IS NOT NULL THEN
                PERFORM {soniq}.note_starts(
                    v_gate, v_picked.ids, v_keys, v_picked.places, v_now);
            END IF;
            PERFORM {soniq}.spend(v_lane.queue, v_taken, v_queue.pace, v_queue.burst);
            v_left := v_left - v_taken;
        END IF;
        -- With keys left to look at, or jobs beyond the share, it is worth coming again.
        wait_seconds := CASE WHEN v_taken > 0 OR (v_room > 0 AND mark <> '') THEN 0 ELSE v_wait END;
        RETURN NEXT;
    END LOOP;
END
$$;
