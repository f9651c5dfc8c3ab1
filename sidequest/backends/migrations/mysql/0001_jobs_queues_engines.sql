-- For MySQL and MariaDB alike. Each statement commits by itself, so each one can be run again after
-- an interrupted try. Instants are UTC.
--
-- Texts compare byte by byte. What is looked for does so to its end, which needs another collation
-- on each of the two: with the usual one 'mail' and 'mail ' are the same.

CREATE TABLE IF NOT EXISTS {prefix}jobs (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    name VARCHAR(200) /*!80017 COLLATE utf8mb4_0900_bin */ /*M!100600 COLLATE utf8mb4_nopad_bin */ NOT NULL,
    queue VARCHAR(100) /*!80017 COLLATE utf8mb4_0900_bin */ /*M!100600 COLLATE utf8mb4_nopad_bin */ NOT NULL,
    state ENUM('waiting', 'claimed', 'running', 'completed', 'failed', 'canceled') NOT NULL,
    -- 1: waiting and due. 0: waiting for its time. NULL: not waiting.
    ready TINYINT CHECK (ready IN (0, 1)),
    priority INT NOT NULL,
    available_at DATETIME(6) NOT NULL,
    attempt INT NOT NULL CHECK (attempt >= 0),
    max_attempts INT NOT NULL,
    timeout_ms BIGINT,
    kill_grace_ms BIGINT,
    backoff VARCHAR(100) NOT NULL,
    retry_delay_ms BIGINT NOT NULL,
    isolated TINYINT NOT NULL CHECK (isolated IN (0, 1)),
    engine VARCHAR(100) /*!80017 COLLATE utf8mb4_0900_bin */ /*M!100600 COLLATE utf8mb4_nopad_bin */,
    lease VARCHAR(100) /*!80017 COLLATE utf8mb4_0900_bin */ /*M!100600 COLLATE utf8mb4_nopad_bin */,
    inserted_at DATETIME(6) NOT NULL,
    claimed_at DATETIME(6),
    started_at DATETIME(6),
    finished_at DATETIME(6),
    cancel_requested_at DATETIME(6),
    interrupts INT NOT NULL,
    crashes INT NOT NULL,
    snoozes INT NOT NULL,
    unique_lock VARCHAR(255) /*!80017 COLLATE utf8mb4_0900_bin */ /*M!100600 COLLATE utf8mb4_nopad_bin */,
    tags LONGTEXT,
    progress LONGTEXT,
    meta LONGTEXT,
    args LONGTEXT NOT NULL,
    errors LONGTEXT,
    result LONGTEXT,
    -- The priority for an index: some of the servers have none that descends.
    urgency INT AS (-priority) STORED,
    -- 1 while the job waits for its time, else NULL. Unlike `ready` it stays the same when a job is
    -- claimed that was due when it came, as most are: so the index of due times is left alone.
    later TINYINT AS (IF(ready = 0, 1, NULL)) STORED,
    CHECK ((state = 'waiting') = (ready IS NOT NULL)),
    -- There are no partial indexes. What is neither due nor waiting stands in this one under NULL,
    -- where no claim passes, and does not move any more.
    KEY {prefix}jobs_claim (ready, queue, urgency, available_at, id),
    KEY {prefix}jobs_due (later, available_at, id),
    KEY {prefix}jobs_state (state, id),
    KEY {prefix}jobs_inserted (inserted_at),
    KEY {prefix}jobs_finished (finished_at),
    UNIQUE KEY {prefix}jobs_unique (unique_lock)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS {prefix}queues (
    name VARCHAR(100) /*!80017 COLLATE utf8mb4_0900_bin */ /*M!100600 COLLATE utf8mb4_nopad_bin */ NOT NULL PRIMARY KEY,
    priority INT NOT NULL,
    concurrency INT NOT NULL CHECK (concurrency >= 1),
    paused TINYINT NOT NULL CHECK (paused IN (0, 1)),
    updated_at DATETIME(6) NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS {prefix}engines (
    id VARCHAR(100) /*!80017 COLLATE utf8mb4_0900_bin */ /*M!100600 COLLATE utf8mb4_nopad_bin */ NOT NULL PRIMARY KEY,
    host VARCHAR(255) NOT NULL,
    pid INT NOT NULL,
    version VARCHAR(100) NOT NULL,
    queues LONGTEXT NOT NULL,
    started_at DATETIME(6) NOT NULL,
    heartbeat_at DATETIME(6) NOT NULL,
    beat BIGINT NOT NULL,
    -- Where its process lives, and its worker groups: for the engines of the same host.
    boot VARCHAR(100) NOT NULL,
    pid_namespace VARCHAR(100) NOT NULL,
    pid_born VARCHAR(100) NOT NULL,
    workers LONGTEXT NOT NULL,
    -- The engine that found it dead.
    given_up_by VARCHAR(100)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
