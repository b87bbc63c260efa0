-- The functions that triggers and other languages may call, and the upkeep of history's partitions.

-- A version 7 UUID (RFC 9562): milliseconds, then chance; gen_random_uuid() gives the variant bits.
CREATE FUNCTION {soniq}.uuid7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT CAST(encode(
        set_byte(
            overlay(
                uuid_send(gen_random_uuid())
                PLACING substring(
                    int8send(CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)) FROM 3
                )
                FROM 1 FOR 6
            ),
            6, 112 | (get_byte(uuid_send(gen_random_uuid()), 6) & 15)
        ), 'hex') AS uuid)
$$;

-- Wakes an idle worker, if there is one that serves the queue. NOTIFY takes a cluster-wide lock at
-- commit, so a busy system must not do it (mode 'auto').
CREATE FUNCTION {soniq}.wake(queue text, mode text DEFAULT 'auto') RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT pg_notify({channel}, 'q:' || wake.queue)
    WHERE wake.mode = 'always' OR (wake.mode = 'auto' AND EXISTS (
        SELECT FROM {soniq}.workers w
        WHERE w.idle AND (w.queues IS NULL OR wake.queue = '*' OR wake.queue = ANY (w.queues))))
$$;

-- Enqueue one job; the public way in for triggers and other languages. Version 1.
--   args: an object whose keys are the task's parameters. delay and scheduled_at exclude each other.
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
    id uuid DEFAULT NULL
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
    due := coalesce(
        enqueue.scheduled_at, statement_timestamp() + enqueue.delay, statement_timestamp());
    later := due > statement_timestamp();
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

-- Make history's partitions ahead, one a day (UTC), and drop those whose every row is older than
-- `keep`. Rows that fell into the default partition are moved to the new one first.
CREATE FUNCTION {soniq}.tend_history(keep interval, ahead integer DEFAULT 3) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    today date := CAST(statement_timestamp() AT TIME ZONE 'UTC' AS date);
    day date;
    part text;
    dropped integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended({channel} || ':tend_history', 0));
    -- First, because it locks history itself: whoever holds a partition and then wants history meets
    -- readers, who hold history and want the partition.
    FOR part IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = CAST('{soniq}.history' AS regclass) AND c.relname ~ '^history_\d{8}$'
    LOOP
        IF (to_date(right(part, 8), 'YYYYMMDD') + 1)::timestamp AT TIME ZONE 'UTC'
                < statement_timestamp() - keep THEN
            EXECUTE format('DROP TABLE {soniq}.%I', part);
            dropped := dropped + 1;
        END IF;
    END LOOP;
    FOR day IN SELECT today + n FROM generate_series(0, ahead) AS n LOOP
        part := 'history_' || to_char(day, 'YYYYMMDD');
        IF to_regclass(format('%I.%I', {channel}, part)) IS NULL THEN
            EXECUTE format('CREATE TABLE {soniq}.%I (LIKE {soniq}.history INCLUDING ALL)', part);
            -- Whoever is about to finish a job into the default partition ends first, and the next
            -- waits: a row that came between the move and the ATTACH would make the latter fail.
            LOCK TABLE ONLY {soniq}.history IN SHARE UPDATE EXCLUSIVE MODE;
            LOCK TABLE {soniq}.history_default IN ACCESS EXCLUSIVE MODE;
            -- ATTACH blocks neither readers nor writers of the parent, CREATE ... PARTITION OF does.
            EXECUTE format(
                'WITH moved AS (DELETE FROM {soniq}.history_default
                     WHERE finished_at >= %1$L AND finished_at < %2$L RETURNING *)
                 INSERT INTO {soniq}.%3$I SELECT * FROM moved',
                day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC', part);
            EXECUTE format(
                'ALTER TABLE {soniq}.history ATTACH PARTITION {soniq}.%I
                     FOR VALUES FROM (%L) TO (%L)',
                part, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
        END IF;
    END LOOP;
    DELETE FROM {soniq}.history_default WHERE finished_at < statement_timestamp() - keep;
    RETURN dropped;
END
$$;

SELECT {soniq}.tend_history(interval '1 day');
