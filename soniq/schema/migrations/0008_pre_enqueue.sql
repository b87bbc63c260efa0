-- Version 2 of the public way in, with the options of unique jobs. The first version gives way under
-- another name, so that who may call it can be handed on.
ALTER FUNCTION {soniq}.enqueue(
    text, jsonb, text, integer, timestamptz, interval, integer, double precision, text[], uuid
) RENAME TO enqueue_1;

-- Enqueue one job; the public way in for triggers and other languages. Version 2.
--   args: an object whose keys are the task's parameters. delay and scheduled_at exclude each other.
--   unique_args or dedup_key: the job's key; the others say what it means. It answers the job that
--   stands; with on_conflict => 'raise' a duplicate is SQLSTATE 23505.
CREATE FUNCTION {soniq}.enqueue(
    task text,
    args jsonb DEFAULT '{}',
    queue text DEFAULT 'default',
    priority integer DEFAULT 100,
    scheduled_at timestamptz DEFAULT NULL,
    delay interval DEFAULT NULL,
    max_retries integer DEFAULT 3,
    timeout_seconds double precision DEFAULT NULL,
    tags text[] DEFAULT NULL,
    id uuid DEFAULT NULL,
    unique_args boolean DEFAULT false,
    dedup_key text DEFAULT NULL,
    unique_while text[] DEFAULT NULL,
    unique_for interval DEFAULT NULL,
    on_conflict text DEFAULT NULL,
    merge jsonb DEFAULT NULL
) RETURNS uuid LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    job_id uuid := coalesce(enqueue.id, {soniq}.uuid7());
    due timestamptz;
    later boolean;
BEGIN
    IF coalesce(enqueue.task, '') !~ '\S' OR length(enqueue.task) > 255 THEN
        RAISE EXCEPTION 'soniq: task must be 1 to 255 characters' USING ERRCODE = '22023';
    ELSIF coalesce(enqueue.queue, '') !~ '\S' OR length(enqueue.queue) > 128 THEN
        RAISE EXCEPTION 'soniq: queue must be 1 to 128 characters' USING ERRCODE = '22023';
    ELSIF enqueue.priority IS NULL OR enqueue.priority NOT BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION 'soniq: priority must be 1 to 1000' USING ERRCODE = '22023';
    ELSIF jsonb_typeof(enqueue.args) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'soniq: args must be a JSON object' USING ERRCODE = '22023';
    ELSIF enqueue.max_retries IS NULL OR enqueue.max_retries NOT BETWEEN 0 AND 10000 THEN
        RAISE EXCEPTION 'soniq: max_retries must be 0 to 10000' USING ERRCODE = '22023';
    ELSIF enqueue.delay NOT BETWEEN interval '0' AND interval '100 years' THEN
        RAISE EXCEPTION 'soniq: delay must be 0 to 100 years' USING ERRCODE = '22023';
    ELSIF enqueue.delay IS NOT NULL AND enqueue.scheduled_at IS NOT NULL THEN
        RAISE EXCEPTION 'soniq: give delay or scheduled_at, not both' USING ERRCODE = '22023';
    -- Moments that not every client can read: one such row would spoil every list it is in.
    ELSIF enqueue.scheduled_at NOT BETWEEN '0002-01-01 00:00+00' AND '9998-12-31 23:59:59.999999+00'
    THEN
        RAISE EXCEPTION 'soniq: scheduled_at must be in the years 2 to 9998'
            USING ERRCODE = '22023';
    ELSIF enqueue.timeout_seconds NOT BETWEEN 0 AND 3155760000 THEN
        RAISE EXCEPTION 'soniq: timeout_seconds must be 0 to 3155760000' USING ERRCODE = '22023';
    ELSIF cardinality(enqueue.tags) > 50 OR EXISTS (
            SELECT FROM unnest(enqueue.tags) AS tag
            WHERE coalesce(tag, '') !~ '\S' OR length(tag) > 100) THEN
        RAISE EXCEPTION 'soniq: tags must be at most 50 words of 1 to 100 characters'
            USING ERRCODE = '22023';
    END IF;
    IF unique_args OR dedup_key IS NOT NULL OR unique_while IS NOT NULL OR unique_for IS NOT NULL
            OR on_conflict IS NOT NULL OR merge IS NOT NULL THEN
        RETURN {soniq}.enqueue_unique(
            jsonb_build_object(
                'id', job_id, 'task', task, 'args', args, 'queue', queue, 'priority', priority,
                'moment', scheduled_at, 'delay', extract(epoch FROM delay),
                'max_attempts', max_retries + 1, 'timeout', timeout_seconds, 'tags', tags),
            jsonb_strip_nulls(jsonb_build_object(
                'key', dedup_key, 'states', unique_while, 'seconds', extract(epoch FROM unique_for),
                'conflict', on_conflict, 'merge', merge)),
            unique_args);
    END IF;
    due := coalesce(
        enqueue.scheduled_at, statement_timestamp() + enqueue.delay, statement_timestamp());
    later := due > statement_timestamp();
    PERFORM {soniq}.enter(enqueue.queue);
    INSERT INTO {soniq}.jobs
        (id, task, queue, args, state, priority, scheduled_at, max_attempts, timeout_seconds, tags)
    VALUES
        (job_id, enqueue.task, enqueue.queue, enqueue.args,
         CASE WHEN later THEN 'scheduled' ELSE 'queued' END, enqueue.priority, due,
         enqueue.max_retries + 1, enqueue.timeout_seconds, enqueue.tags);
    IF NOT later THEN
        PERFORM {soniq}.wake(enqueue.queue);
    ELSIF due < statement_timestamp() + interval '6 seconds' THEN
        PERFORM {soniq}.wake('*');
    END IF;
    RETURN job_id;
END
$$;

-- The rest of `enqueue` for a job with a key.
CREATE FUNCTION {soniq}.enqueue_unique(job jsonb, rule jsonb, by_args boolean) RETURNS uuid
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    placed record;
BEGIN
    IF (rule ? 'key') = coalesce(by_args, false) THEN
        RAISE EXCEPTION 'soniq: give unique_args => true or dedup_key, one of them'
            USING ERRCODE = '22023';
    ELSIF rule ->> 'key' !~ '\S' OR length(rule ->> 'key') > 255 THEN
        RAISE EXCEPTION 'soniq: dedup_key must be 1 to 255 characters' USING ERRCODE = '22023';
    ELSIF rule ? 'states' AND NOT coalesce(
            rule -> 'states' <@ '["scheduled", "queued", "processing"]'
            AND jsonb_array_length(rule -> 'states') > 0, false) THEN
        RAISE EXCEPTION 'soniq: unique_while must name some of scheduled, queued, processing'
            USING ERRCODE = '22023';
    ELSIF CAST(rule ->> 'seconds' AS double precision) NOT BETWEEN 1e-6 AND 3155760000 THEN
        RAISE EXCEPTION 'soniq: unique_for must be more than 0 and at most 100 years'
            USING ERRCODE = '22023';
    ELSIF rule ->> 'conflict' NOT IN ('skip', 'replace', 'raise') THEN
        RAISE EXCEPTION 'soniq: on_conflict must be skip, replace or raise'
            USING ERRCODE = '22023';
    ELSIF rule ? 'merge' AND rule ->> 'conflict' IS DISTINCT FROM 'replace' THEN
        RAISE EXCEPTION 'soniq: merge is for on_conflict => ''replace''' USING ERRCODE = '22023';
    ELSIF rule ? 'merge' AND (jsonb_typeof(rule -> 'merge') <> 'object'
            OR rule -> 'merge' = '{}' OR EXISTS (
            SELECT FROM jsonb_each_text(rule -> 'merge') AS m
            WHERE coalesce(m.value, '') NOT IN ('append', 'sum'))) THEN
        RAISE EXCEPTION 'soniq: merge must be an object of argument names and append or sum'
            USING ERRCODE = '22023';
    END IF;
    rule := '{"conflict": "skip", "states": ["scheduled", "queued", "processing"], "limit": 1048576}'
        || rule;
    PERFORM {soniq}.enter(job ->> 'queue');
    SELECT e.job_id, e.outcome INTO placed FROM {soniq}.enqueue_keyed(
        jsonb_build_array(job || jsonb_build_object('unique', rule)), 'auto') AS e;
    IF placed.outcome = 'held' THEN
        RAISE EXCEPTION 'soniq: job % has the key already', placed.job_id USING ERRCODE = '23505';
    ELSIF placed.outcome = 'too_large' THEN
        RAISE EXCEPTION 'soniq: merged with those of job %, the arguments take more than 1 MiB',
            placed.job_id USING ERRCODE = '22023';
    END IF;
    RETURN placed.job_id;
END
$$;

-- Whoever could call the first version, and nobody else, can call the second.
DO $$
DECLARE
    old oid;
    new oid;
    granted record;
BEGIN
    SELECT p.oid INTO old FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = {channel} AND p.proname = 'enqueue_1';
    SELECT p.oid INTO new FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = {channel} AND p.proname = 'enqueue';
    FOR granted IN
        SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
                AS who, CASE WHEN a.is_grantable THEN 'WITH GRANT OPTION' ELSE '' END AS how,
            row_number() OVER () AS number
        FROM pg_proc p, aclexplode(p.proacl) AS a WHERE p.oid = old
    LOOP
        IF granted.number = 1 THEN
            EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', CAST(new AS regprocedure));
        END IF;
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s %s',
            CAST(new AS regprocedure), granted.who, granted.how);
    END LOOP;
    EXECUTE format('DROP FUNCTION %s', CAST(old AS regprocedure));
END
$$;
