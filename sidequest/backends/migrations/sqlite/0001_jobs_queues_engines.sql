-- Instants are whole microseconds since 1970, UTC: a third of the bytes of a text, in rows and in indexes, and
-- a row grows less when it is claimed. To read one: datetime(inserted_at / 1000000, 'unixepoch'). Long
-- texts stand last in a row: SQLite walks over what comes before the column that it wants.
-- No condition has a list of more than two in it: out of one, SQLite makes a temporary table, in each
-- statement that checks it. That was half of what a claim and an end cost.

CREATE TABLE {prefix}jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    queue TEXT NOT NULL,
    state TEXT NOT NULL CHECK (
        state = 'waiting' OR state = 'claimed' OR state = 'running'
        OR state = 'completed' OR state = 'failed' OR state = 'canceled'
    ),
    -- 1: waiting and due. 0: waiting for its time. NULL: not waiting.
    ready INTEGER CHECK (ready IN (0, 1)),
    priority INTEGER NOT NULL,
    available_at INTEGER NOT NULL,
    attempt INTEGER NOT NULL CHECK (attempt >= 0),
    max_attempts INTEGER NOT NULL,
    timeout_ms INTEGER,
    kill_grace_ms INTEGER,
    backoff TEXT NOT NULL,
    retry_delay_ms INTEGER NOT NULL,
    isolated INTEGER NOT NULL CHECK (isolated IN (0, 1)),
    engine TEXT,
    lease TEXT,
    inserted_at INTEGER NOT NULL,
    claimed_at INTEGER,
    started_at INTEGER,
    finished_at INTEGER,
    cancel_requested_at INTEGER,
    interrupts INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    snoozes INTEGER NOT NULL,
    unique_lock TEXT,
    tags TEXT,
    progress TEXT,
    meta TEXT,
    args TEXT NOT NULL,
    errors TEXT,
    result TEXT,
    CHECK ((state = 'waiting') = (ready IS NOT NULL))
);

-- What a claim costs depends on what is waiting and due: nothing else is in its index. Held, failed
-- and canceled jobs are few, and so are the entries of the indexes that find them.
CREATE INDEX {prefix}jobs_claim ON {prefix}jobs (queue, priority DESC, available_at, id) WHERE ready = 1;
CREATE INDEX {prefix}jobs_due ON {prefix}jobs (available_at) WHERE ready = 0;
CREATE INDEX {prefix}jobs_held ON {prefix}jobs (id) WHERE state IN ('claimed', 'running');
CREATE INDEX {prefix}jobs_missed ON {prefix}jobs (state, id) WHERE state IN ('failed', 'canceled');
CREATE INDEX {prefix}jobs_inserted ON {prefix}jobs (inserted_at);
CREATE INDEX {prefix}jobs_finished ON {prefix}jobs (finished_at, state) WHERE finished_at IS NOT NULL;
CREATE INDEX {prefix}jobs_cancel ON {prefix}jobs (engine) WHERE cancel_requested_at IS NOT NULL;
CREATE UNIQUE INDEX {prefix}jobs_unique ON {prefix}jobs (unique_lock) WHERE unique_lock IS NOT NULL;

CREATE TABLE {prefix}queues (
    name TEXT NOT NULL PRIMARY KEY,
    priority INTEGER NOT NULL,
    concurrency INTEGER NOT NULL CHECK (concurrency >= 1),
    paused INTEGER NOT NULL CHECK (paused IN (0, 1)),
    updated_at INTEGER NOT NULL
);

CREATE TABLE {prefix}engines (
    id TEXT NOT NULL PRIMARY KEY,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    version TEXT NOT NULL,
    queues TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    heartbeat_at INTEGER NOT NULL,
    beat INTEGER NOT NULL,
    -- Where its process lives, and its worker groups: for the engines of the same host.
    boot TEXT NOT NULL,
    pid_namespace TEXT NOT NULL,
    pid_born TEXT NOT NULL,
    workers TEXT NOT NULL,
    -- The engine that found it dead.
    given_up_by TEXT
);
