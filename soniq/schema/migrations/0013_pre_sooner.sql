-- Claims of jobs behind gates, sooner: functions only. What they find is what they found.

-- Seconds of a rate that are spent: as before, written so that it becomes part of what calls it.
CREATE OR REPLACE FUNCTION {soniq}.rate_debt(
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
CREATE OR REPLACE FUNCTION {soniq}.rate_room(
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

-- In the order in which failures note them, whatever the order of the database's texts is.
CREATE OR REPLACE FUNCTION {soniq}.note_starts(
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

-- What a key has left of its rate is reckoned only where keys have one.
CREATE OR REPLACE FUNCTION {soniq}.open_keys(
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

-- Keys are compared in the order of their index. To plan the statements of a claim took longer than
-- some of them take, and was done at each.
CREATE OR REPLACE FUNCTION {soniq}.claim_gated(
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
