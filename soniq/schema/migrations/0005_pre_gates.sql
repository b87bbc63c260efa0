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

-- How many jobs a rate lets start at a moment, and in how many seconds the next may. One job in
-- `pace` seconds, up to `burst` at once: what was started is spent until some moment.
CREATE FUNCTION {soniq}.rate_room(
    pace double precision, burst integer, spent_until timestamptz, at timestamptz,
    OUT room integer, OUT wait_seconds double precision
) LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CAST(greatest(0, floor(burst - debt / pace + 1e-6)) AS integer),
           greatest(0, debt - (burst - 1) * pace)
    FROM (SELECT greatest(0, coalesce(CAST(
        extract(epoch FROM spent_until - at) AS double precision), 0)) AS debt) AS d
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
-- keys at most, among `most` looked at. `upto` is where to go on: NULL at the end.
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
    judged AS (
        SELECT v.gate, v.step, greatest(
            rate.wait_seconds,
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
            rate.room, wanted) AS room
        FROM visited v
        LEFT JOIN running r ON r.gate = v.gate
        LEFT JOIN LATERAL (
            SELECT g.spent_until, g.probe,
                   CASE WHEN declared.breaker_by_key THEN g.closed_until END AS closed_until
            FROM {soniq}.gates g
            WHERE g.task = declared.task AND g.key = v.gate
              AND (declared.rate_by_key OR declared.breaker_by_key)
            OFFSET 0) AS k ON true  -- which keeps it to one look for each key
        LEFT JOIN LATERAL {soniq}.rate_room(
            declared.rate_seconds, declared.rate_burst, k.spent_until, at) AS rate
            ON declared.rate_by_key
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

-- How many more jobs of a queue may run, and in how many seconds more may; NULL is any number. Its
-- pace is what each of them spends.
CREATE FUNCTION {soniq}.queue_room(
    queue text, OUT room integer, OUT wait_seconds double precision, OUT pace double precision
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
        rate := {soniq}.rate_room(
            pace, coalesce(said.rate_burst, CAST(greatest(1, floor(0.1 / pace + 1e-9)) AS integer)),
            gate.spent_until, clock_timestamp());
        room := least(room, rate.room);
        wait_seconds := CASE WHEN rate.room <= 0 THEN rate.wait_seconds END;
    END IF;
END
$$;

-- What became of jobs that tried whether a gate that failures had closed may open: it opens where
-- one has gone, for a failure would have closed it again; where one only went back, another will try.
CREATE FUNCTION {soniq}.settle_probes(task text, at timestamptz) RETURNS void
LANGUAGE sql VOLATILE AS $$
    WITH tried AS (
        SELECT g.task, g.key, g.probe FROM {soniq}.gates g
        WHERE g.task = settle_probes.task AND g.closed_until <= settle_probes.at
          AND g.probe IS NOT NULL
        FOR NO KEY UPDATE SKIP LOCKED),
    told AS (
        SELECT t.task, t.key, j.id IS NULL AS well
        FROM tried t LEFT JOIN {soniq}.jobs j ON j.id = t.probe
        WHERE j.worker_id IS NULL)
    UPDATE {soniq}.gates g SET
        probe = NULL,
        closed_until = CASE WHEN told.well THEN NULL ELSE g.closed_until END,
        failed_at = CASE WHEN told.well THEN NULL ELSE g.failed_at END
    FROM told WHERE g.task = told.task AND g.key = told.key
$$;

-- Note that attempts of a worker's jobs have failed, before their endings are written: the last of
-- too many closes their gate, and so does one that tried it.
CREATE FUNCTION {soniq}.note_failures(worker uuid, ids uuid[]) RETURNS void
LANGUAGE sql VOLATILE AS $$
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

-- Count jobs that were started against a rate; a NULL pace is no rate.
CREATE FUNCTION {soniq}.spend(task text, key text, number integer, pace double precision)
RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF number > 0 AND pace IS NOT NULL THEN
        UPDATE {soniq}.gates g
        SET spent_until = greatest(g.spent_until, clock_timestamp())
            + make_interval(secs => number * pace)
        WHERE g.task = spend.task AND g.key = spend.key;
    END IF;
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

-- Take jobs that wait behind gates, for a worker: from each queue and task in turn, and there from
-- each key in turn. Rows with an id are jobs taken. Of each queue and task that was looked at, a row
-- without tells in `mark` where to go on among its keys, and when to come again: 0 is at once, NULL
-- is when something happens.
--   served: queues of which to take, all if empty. known: tasks that the worker has.
--   wanted: jobs to take; of more than `slots`, as many as their arguments stay within most_bytes.
--   turn: what had the last turn. marks: where to go on. weights: keys with more turns than one.
CREATE FUNCTION {soniq}.claim_gated(
    worker uuid, served text[], known text[], wanted integer, slots integer, most_bytes bigint,
    turn text, marks jsonb, weights jsonb
) RETURNS TABLE (
    id text, task text, queue text, args text, attempt integer, max_attempts integer,
    snoozes integer, priority smallint, scheduled_at timestamptz, created_at timestamptz,
    timeout_seconds double precision, tags text, trace text, cancel_requested boolean,
    found_seconds double precision, gate text, mark text, wait_seconds double precision
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    v_lane record;
    v_gate {soniq}.gates;
    v_keys text[];
    v_rooms integer[];
    v_later double precision;
    v_now timestamptz;
    v_queue record;
    v_left integer := wanted;
    v_share integer;
    v_room integer;
    v_taken integer;
    v_whole boolean;
    v_most integer;
    v_wait double precision;
BEGIN
    -- What is counted after a lock was had must be what was committed before it was given.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'soniq: limits need transactions that are read committed'
            USING ERRCODE = '25001';
    END IF;
    FOR v_lane IN SELECT * FROM {soniq}.gated_lanes(served, known, turn) LOOP
        EXIT WHEN v_left <= 0;
        id := NULL; queue := v_lane.queue; task := v_lane.task;
        mark := coalesce(marks ->> v_lane.name, ''); wait_seconds := 0;
        v_share := ceil(v_left / CAST(v_lane.turns_left AS numeric));
        v_queue := {soniq}.queue_room(v_lane.queue);
        IF v_queue.room <= 0 THEN
            wait_seconds := v_queue.wait_seconds;
            RETURN NEXT;
            CONTINUE;
        ELSIF v_lane.task IS NULL THEN
            RETURN QUERY SELECT * FROM {soniq}.claim_of_queue(
                worker, v_lane.queue, known, least(v_share, v_queue.room),
                slots - (wanted - v_left), most_bytes);
            GET DIAGNOSTICS v_taken = ROW_COUNT;
            PERFORM {soniq}.spend('', v_lane.queue, v_taken, v_queue.pace);
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
            PERFORM {soniq}.settle_probes(v_lane.task, v_now);
            SELECT * INTO v_gate FROM {soniq}.gates g WHERE g.task = v_lane.task AND g.key = '';
        END IF;
        SELECT least(r.room, v_share, v_queue.room), r.wait_seconds
        INTO v_room, v_wait FROM {soniq}.task_room(v_gate, v_now) AS r;
        v_whole := mark = '';
        v_most := least(2 * v_room + 8, v_room + 32);
        v_taken := 0;
        v_keys := NULL;
        WHILE v_room > 0 LOOP
            SELECT o.keys, o.rooms, coalesce(o.upto, ''), o.wait_seconds
            INTO v_keys, v_rooms, mark, v_later
            FROM {soniq}.open_keys(v_gate, v_lane.queue, mark, v_room, v_most, v_now) AS o;
            v_wait := least(v_wait, v_later);
            EXIT WHEN v_keys IS NOT NULL OR (v_whole AND mark = '');
            IF mark = '' THEN
                v_whole := true;
            ELSE
                v_most := 2 * v_most;
                EXIT WHEN v_most > 10000;
            END IF;
        END LOOP;
        IF v_keys IS NOT NULL THEN
            RETURN QUERY
            WITH share AS (
                SELECT greatest(1, v_room / greatest(1, sum(coalesce(
                    CAST(weights -> v_lane.task ->> k.gate AS double precision), 1)))) AS each
                FROM unnest(v_keys) AS k(gate)),
            picked AS MATERIALIZED (
                SELECT p.id, p.size
                FROM share, unnest(v_keys, v_rooms) AS k(gate, room)
                CROSS JOIN LATERAL (
                    SELECT j.id,
                        CASE WHEN pg_column_size(j.args) > 500
                             THEN octet_length(CAST(j.args AS text))
                             ELSE pg_column_size(j.args) END AS size
                    FROM {soniq}.jobs j
                    WHERE j.state = 'queued' AND j.gate IS NOT NULL AND j.queue = v_lane.queue
                      AND j.task = v_lane.task AND j.gate = k.gate
                    ORDER BY j.priority, j.scheduled_at, j.id
                    LIMIT least(k.room, greatest(1, floor(share.each * coalesce(
                        CAST(weights -> v_lane.task ->> k.gate AS double precision), 1))))
                    FOR UPDATE SKIP LOCKED) AS p
                LIMIT v_room),
            taken AS (
                UPDATE {soniq}.jobs j SET
                    state = 'processing', attempt = j.attempt + 1, worker_id = worker,
                    started_at = statement_timestamp()
                WHERE j.id = ANY (ARRAY (
                    SELECT b.id FROM (
                        SELECT p.id, row_number() OVER () AS place,
                               sum(p.size) OVER (ROWS UNBOUNDED PRECEDING) AS upto
                        FROM picked p) AS b
                    WHERE b.place <= slots - (wanted - v_left) OR b.upto <= most_bytes))
                RETURNING j.*),
            spent AS (
                INSERT INTO {soniq}.gates AS g (task, key, spent_until, probe)
                SELECT v_lane.task, s.key,
                       v_now + make_interval(secs => s.number * v_gate.rate_seconds), s.first
                FROM (
                    SELECT t.gate AS key, count(*) AS number, (array_agg(t.id))[1] AS first,
                           v_gate.rate_by_key AS rated
                    FROM taken t GROUP BY t.gate
                    UNION ALL
                    SELECT '', count(*), (array_agg(t.id))[1],
                           v_gate.rate_seconds IS NOT NULL AND NOT v_gate.rate_by_key
                    FROM taken t HAVING count(*) > 0) AS s
                WHERE s.rated OR EXISTS (
                    SELECT FROM {soniq}.gates k
                    WHERE k.task = v_lane.task AND k.key = s.key AND k.closed_until IS NOT NULL)
                ON CONFLICT (task, key) DO UPDATE SET
                    spent_until = excluded.spent_until
                        + greatest(interval '0', g.spent_until - v_now),
                    probe = CASE WHEN g.closed_until IS NOT NULL THEN excluded.probe END)
            SELECT CAST(t.id AS text), t.task, t.queue, CAST(t.args AS text), t.attempt,
                t.max_attempts, t.snoozes, t.priority, t.scheduled_at, t.created_at,
                t.timeout_seconds, CAST(to_jsonb(t.tags) AS text), CAST(t.trace AS text),
                t.cancel_requested, CAST(0 AS double precision), CAST(t.gate AS text),
                CAST(NULL AS text), CAST(NULL AS double precision)
            FROM taken t;
            GET DIAGNOSTICS v_taken = ROW_COUNT;
            PERFORM {soniq}.spend('', v_lane.queue, v_taken, v_queue.pace);
            v_left := v_left - v_taken;
        END IF;
        -- With keys left to look at, or jobs beyond the share, it is worth coming again.
        wait_seconds := CASE WHEN v_taken > 0 OR (v_room > 0 AND mark <> '') THEN 0 ELSE v_wait END;
        RETURN NEXT;
    END LOOP;
END
$$;
