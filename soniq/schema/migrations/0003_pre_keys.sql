-- Unique jobs: a table of keys beside the jobs, and the functions that enqueue with a key.

-- Who has which key. Claims, endings, retries and rescues never touch it, so no twin can make them
-- fail: a key is held while one of `holders` is a live job in a state the asker names, or until a
-- moment. Rows that nobody holds any more are pruned by workers.
CREATE TABLE {soniq}.keys (
    task text COLLATE "C" NOT NULL,
    -- 'k:' and a dedup_key, or 'a:' and the SHA-256 of the arguments.
    key text COLLATE "C" NOT NULL,
    -- Live jobs of the key in the order they came; whoever ended is dropped at the next enqueue.
    holders uuid[] NOT NULL DEFAULT '{}',
    until timestamptz,
    PRIMARY KEY (task, key)
) WITH (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0
);

-- The key that a job asks for; `job` is an element of what `enqueue_keyed` takes.
CREATE FUNCTION {soniq}.key_of(job jsonb) RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    RETURN CASE WHEN job -> 'unique' ? 'key' THEN 'k:' || (job -> 'unique' ->> 'key')
        ELSE 'a:' || encode(sha256(convert_to(CAST(job -> 'args' AS text), 'UTF8')), 'hex') END;
END
$$;

-- Lock the keys of jobs, always in the same order: two who want the same ones never wait for each
-- other. Keys that nobody had are made.
CREATE FUNCTION {soniq}.lock_keys(jobs jsonb) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    INSERT INTO {soniq}.keys AS k (task, key)
    SELECT DISTINCT w.task, w.key FROM (
        SELECT job ->> 'task' COLLATE "C" AS task, {soniq}.key_of(job) COLLATE "C" AS key
        FROM jsonb_array_elements(jobs) AS j(job) WHERE job ? 'unique') AS w
    ORDER BY w.task, w.key
    ON CONFLICT ON CONSTRAINT keys_pkey DO UPDATE SET task = excluded.task;
END
$$;

-- Who holds a key against somebody who minds these states: a waiting job rather than a running one;
-- while `until` is not over, any live one, or else the last that had the key, with no state.
CREATE FUNCTION {soniq}.holder(
    holders uuid[], until timestamptz, states text[], OUT id uuid, OUT state text
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    kept boolean := coalesce(holder.until > clock_timestamp(), false);
BEGIN
    IF holders IS NULL OR holders = '{}' THEN
        RETURN;
    END IF;
    SELECT j.id, j.state INTO holder.id, holder.state
    FROM {soniq}.jobs j
    WHERE j.id = ANY (holders) AND (kept OR j.state = ANY (states))
    ORDER BY j.state = 'processing', j.id DESC LIMIT 1;
    IF holder.id IS NULL AND kept THEN
        holder.id := holders[cardinality(holders)];
    END IF;
END
$$;

-- Arguments of a job that is replaced, merged with those of the job it had: a list is appended, a
-- number added. Where either has none, the newer value stands.
CREATE FUNCTION {soniq}.merged(old jsonb, new jsonb, rules jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    name text;
    rule text;
    kinds text;
BEGIN
    FOR name, rule IN SELECT r.key, r.value FROM jsonb_each_text(rules) AS r LOOP
        kinds := concat_ws(' ', rule, jsonb_typeof(old -> name), jsonb_typeof(new -> name));
        IF kinds = 'append array array' THEN
            new := jsonb_set(new, ARRAY[name], (old -> name) || (new -> name));
        ELSIF kinds = 'sum number number' THEN
            new := jsonb_set(new, ARRAY[name],
                to_jsonb(CAST(old ->> name AS numeric) + CAST(new ->> name AS numeric)));
        ELSIF old ? name AND NOT new ? name THEN
            new := jsonb_set(new, ARRAY[name], old -> name);
        END IF;
    END LOOP;
    RETURN new;
END
$$;

-- Give a waiting job what another asks for: arguments, moment and priority. It may have begun
-- meanwhile: then nothing is replaced, and there is no outcome.
CREATE FUNCTION {soniq}.replace_job(
    standing uuid, asked {soniq}.jobs, rule jsonb, OUT outcome text, OUT old_args jsonb, OUT told text
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    was record;
    given jsonb := asked.args;
BEGIN
    SELECT j.state, j.args, j.queue INTO was FROM {soniq}.jobs j
    WHERE j.id = standing AND j.state IN ('scheduled', 'queued') FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    ELSIF rule ? 'ask' THEN
        outcome := 'ask';
        old_args := was.args;
        RETURN;
    ELSIF rule ? 'merge' THEN
        given := {soniq}.merged(was.args, given, rule -> 'merge');
        IF octet_length(CAST(given AS text)) > CAST(rule ->> 'limit' AS bigint) THEN
            outcome := 'too_large';
            RETURN;
        END IF;
    END IF;
    -- Somebody may have asked to cancel what it did before.
    UPDATE {soniq}.jobs j SET args = given, scheduled_at = asked.scheduled_at, state = asked.state,
        priority = asked.priority, gate = asked.gate, cancel_requested = false
    WHERE j.id = standing;
    outcome := 'replaced';
    IF asked.state = 'queued' THEN
        told := CASE WHEN was.state = 'scheduled' THEN was.queue END;
    ELSIF asked.scheduled_at < statement_timestamp() + interval '6 seconds' THEN
        told := '*';
    END IF;
END
$$;

-- Take a key for a job, or tell who holds it. What is known without a lock is told without one, so
-- that a duplicate waits for nobody and writes nothing. `locked`: the keys were locked before.
CREATE FUNCTION {soniq}.take_key(
    job_id uuid, task text, wanted text, rule jsonb, locked boolean, OUT id uuid, OUT state text
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    states text[] := ARRAY(SELECT jsonb_array_elements_text(rule -> 'states'));
    mine timestamptz := statement_timestamp()
        + make_interval(secs => CAST(rule ->> 'seconds' AS double precision));
    had record;
    live uuid[];
BEGIN
    SELECT k.holders, k.until INTO had FROM {soniq}.keys k
    WHERE k.task = take_key.task AND k.key = wanted;
    IF FOUND THEN
        SELECT h.id, h.state INTO take_key.id, take_key.state
        FROM {soniq}.holder(had.holders, had.until, states) AS h;
    END IF;
    IF id IS NULL AND NOT locked THEN
        INSERT INTO {soniq}.keys AS k (task, key, holders, until)
        VALUES (take_key.task, wanted, ARRAY[job_id], mine)
        ON CONFLICT ON CONSTRAINT keys_pkey DO UPDATE SET task = excluded.task
        RETURNING k.holders, k.until INTO had;
        IF had.holders = ARRAY[job_id] AND had.until IS NOT DISTINCT FROM mine THEN
            RETURN;  -- nobody had it
        END IF;
        -- A new statement sees whoever committed while we waited for the lock.
        SELECT h.id, h.state INTO take_key.id, take_key.state
        FROM {soniq}.holder(had.holders, had.until, states) AS h;
    END IF;
    IF id IS NULL THEN
        IF had.holders <> '{}' THEN
            SELECT array_agg(j.id ORDER BY array_position(had.holders, j.id)) INTO live
            FROM {soniq}.jobs j WHERE j.id = ANY (had.holders);
        END IF;
        UPDATE {soniq}.keys k SET holders = array_append(live, job_id), until = mine
        WHERE k.task = take_key.task AND k.key = wanted;
    END IF;
END
$$;

-- Store one job, or do what its rule says about the one that has its key.
CREATE FUNCTION {soniq}.place_job(
    asked jsonb, locked boolean,
    OUT job_id uuid, OUT outcome text, OUT old_args jsonb, OUT told text
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    job {soniq}.jobs := jsonb_populate_record(CAST(NULL AS {soniq}.jobs), asked);
    rule jsonb := asked -> 'unique';
    wanted text;
    held record;
    done record;
BEGIN
    job.scheduled_at := coalesce(
        CAST(asked ->> 'moment' AS timestamptz),
        statement_timestamp() + make_interval(secs => CAST(asked ->> 'delay' AS double precision)),
        statement_timestamp());
    job.state := CASE WHEN job.scheduled_at > statement_timestamp() THEN 'scheduled' ELSE 'queued' END;
    job.timeout_seconds := CAST(asked ->> 'timeout' AS double precision);
    job.created_at := statement_timestamp();
    job.attempt := 0;
    job.snoozes := 0;
    job.cancel_requested := false;
    IF rule IS NOT NULL THEN
        wanted := {soniq}.key_of(asked);
        LOOP
            held := {soniq}.take_key(job.id, job.task, wanted, rule, locked);
            EXIT WHEN held.id IS NULL;
            job_id := held.id;
            IF rule ->> 'conflict' <> 'replace' OR held.state IS NULL OR held.state = 'processing' THEN
                outcome := CASE WHEN rule ->> 'conflict' = 'raise' THEN 'held' ELSE 'existing' END;
                RETURN;
            END IF;
            done := {soniq}.replace_job(job_id, job, rule);
            IF done.outcome IS NOT NULL THEN
                outcome := done.outcome;
                old_args := done.old_args;
                told := done.told;
                RETURN;
            END IF;  -- else it began, or ended, as we came: look again
        END LOOP;
    END IF;
    INSERT INTO {soniq}.jobs VALUES (job.*);
    job_id := job.id;
    outcome := 'enqueued';
    told := CASE WHEN job.state = 'queued' THEN job.queue
        WHEN job.scheduled_at < statement_timestamp() + interval '6 seconds' THEN '*' END;
END
$$;

-- Enqueue jobs, of which some have keys, and tell of each, by its place from 1 on, what became of it:
--   enqueued; existing, and which job that is; replaced, and which; ask: what the arguments were of
--   the job to be replaced; held, and by which: then none of all was stored, as with too_large, which
--   is merged arguments larger than the limit. What came before these two does not count.
-- Elements are as the clients write them, with "unique": {"key", "states", "seconds", "conflict",
-- "merge", "limit", "ask"}. Plans are kept as they are: one that is made for each call takes longer
-- than its work, and one from when the tables were empty would read them whole.
CREATE FUNCTION {soniq}.enqueue_keyed(jobs jsonb, notify text)
RETURNS TABLE (place bigint, job_id uuid, outcome text, old_args jsonb)
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    asked jsonb;
    told text;
    queue text;
BEGIN
    IF jsonb_array_length(jobs) = 1 THEN
        place := 1;
        SELECT p.job_id, p.outcome, p.old_args, p.told INTO job_id, outcome, old_args, queue
        FROM {soniq}.place_job(jobs -> 0, false) AS p;
        RETURN NEXT;
    ELSE
        PERFORM {soniq}.lock_keys(jobs);
        -- A savepoint of our own, so that all or none is true in a caller's transaction as well.
        BEGIN
            FOR asked, place IN
                SELECT j.value, j.ordinality FROM jsonb_array_elements(jobs) WITH ORDINALITY AS j
            LOOP
                SELECT p.job_id, p.outcome, p.old_args, p.told INTO job_id, outcome, old_args, told
                FROM {soniq}.place_job(asked, true) AS p;
                IF outcome IN ('held', 'too_large') THEN
                    RAISE EXCEPTION USING ERRCODE = 'SQ001';
                END IF;
                RETURN NEXT;
                queue := CASE WHEN told IS NULL OR queue = told THEN queue
                    WHEN queue IS NULL THEN told ELSE '*' END;
            END LOOP;
        EXCEPTION WHEN SQLSTATE 'SQ001' THEN
            queue := NULL;
            RETURN NEXT;
        END;
    END IF;
    IF queue IS NOT NULL THEN
        PERFORM {soniq}.wake(queue, notify);
    END IF;
END
$$;

-- Forget keys that nobody holds, of the next `most` after a key; tell how far this came, and how many
-- went. Which are dead is looked at again once they are locked, by a statement of its own: else one
-- that was just taken over would be deleted for what its last holder was.
CREATE FUNCTION {soniq}.prune_keys(
    INOUT task text, INOUT key text, most integer, OUT looked bigint, OUT gone bigint
) LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off
SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    tasks text[];
    names text[];
BEGIN
    WITH page AS MATERIALIZED (
        SELECT k.task, k.key, k.holders, k.until FROM {soniq}.keys k
        WHERE (k.task, k.key) > (prune_keys.task, prune_keys.key)
        ORDER BY k.task, k.key LIMIT most),
    told AS MATERIALIZED (
        SELECT p.task, p.key, coalesce(p.until <= statement_timestamp(), true) AND NOT EXISTS (
            SELECT FROM {soniq}.jobs j WHERE j.id = ANY (p.holders)) AS dead
        FROM page p)
    SELECT count(*), (array_agg(t.task ORDER BY t.task DESC, t.key DESC))[1],
        (array_agg(t.key ORDER BY t.task DESC, t.key DESC))[1],
        array_agg(t.task) FILTER (WHERE t.dead), array_agg(t.key) FILTER (WHERE t.dead)
    INTO looked, prune_keys.task, prune_keys.key, tasks, names FROM told t;
    SELECT array_agg(l.task), array_agg(l.key) INTO tasks, names FROM (
        SELECT k.task, k.key FROM unnest(tasks, names) AS d(task, key)
        JOIN {soniq}.keys k ON k.task = d.task AND k.key = d.key
        FOR UPDATE OF k SKIP LOCKED) AS l;
    DELETE FROM {soniq}.keys k USING unnest(tasks, names) AS d(task, key)
    WHERE k.task = d.task AND k.key = d.key
      AND coalesce(k.until <= statement_timestamp(), true)
      AND NOT EXISTS (SELECT FROM {soniq}.jobs j WHERE j.id = ANY (k.holders));
    GET DIAGNOSTICS gone = ROW_COUNT;
END
$$;
