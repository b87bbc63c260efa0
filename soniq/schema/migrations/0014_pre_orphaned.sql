-- A schedule that nobody vouches for is retired until its code is back. `orphaned`: for want of a
-- worker that has its task, not because its code is gone: who declares it restores it. A process that
-- declares schedules and is no worker vouches for them by `declared_until`.
ALTER TABLE {soniq}.schedules
    ADD COLUMN orphaned boolean NOT NULL DEFAULT false,
    ADD COLUMN declared_until timestamptz;
