-- The first schema. Statements end at the end of a line.
--
-- Only what SQLite 3.24 knows: no STRICT, no RETURNING. Systems that are still supported have no newer one.

-- The one row says what this database is. version: the number of the newest of these files that was carried out.
-- oldest_program: the smallest number of a newest file that a program may have and still use it. forgotten_until: when
-- the last record began that was deleted for its age (Unix seconds).
CREATE TABLE store_state (
    only_row INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    version INTEGER NOT NULL,
    oldest_program INTEGER NOT NULL,
    forgotten_until REAL NOT NULL
);

-- One row for each answer that reported tokens. Unix seconds and seconds; cost in nano-USD, null where no price is
-- known. Without row ids, so that rows lie in the order of time: what is new goes to the end, and what is deleted for
-- its age frees whole pages.
CREATE TABLE records (
    started_at REAL NOT NULL,
    request_id TEXT NOT NULL,
    turn INTEGER NOT NULL,
    service TEXT NOT NULL,
    credential TEXT NOT NULL,
    user_name TEXT NOT NULL,
    session TEXT NOT NULL,
    agent TEXT NOT NULL,
    model TEXT NOT NULL,
    service_tier TEXT NOT NULL,
    context_window INTEGER NOT NULL,
    input INTEGER NOT NULL,
    output INTEGER NOT NULL,
    cache_read INTEGER NOT NULL,
    cache_creation INTEGER NOT NULL,
    cache_creation_5m INTEGER NOT NULL,
    cache_creation_1h INTEGER NOT NULL,
    reasoning INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    week_started_at REAL NOT NULL,
    status INTEGER NOT NULL,
    result TEXT NOT NULL,
    tries INTEGER NOT NULL,
    first_byte REAL NOT NULL,
    duration REAL NOT NULL,
    is_extra INTEGER NOT NULL,
    is_incomplete INTEGER NOT NULL,
    is_estimated INTEGER NOT NULL,
    cost_nano_usd INTEGER,
    price_list TEXT NOT NULL,
    PRIMARY KEY (started_at, request_id, turn)
) WITHOUT ROWID;

-- Sums of the records that began in a quarter of an hour of UTC (quarter: the Unix seconds of its beginning). For ever.
-- Every time zone's hours and days consist of whole quarters.
CREATE TABLE rollups (
    quarter INTEGER NOT NULL,
    service TEXT NOT NULL,
    credential TEXT NOT NULL,
    user_name TEXT NOT NULL,
    model TEXT NOT NULL,
    requests INTEGER NOT NULL,
    input INTEGER NOT NULL,
    output INTEGER NOT NULL,
    cache_read INTEGER NOT NULL,
    cache_creation INTEGER NOT NULL,
    cache_creation_5m INTEGER NOT NULL,
    cache_creation_1h INTEGER NOT NULL,
    reasoning INTEGER NOT NULL,
    cost_nano_usd INTEGER NOT NULL,
    unpriced INTEGER NOT NULL,
    incomplete INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    extra INTEGER NOT NULL,
    PRIMARY KEY (quarter, service, credential, user_name, model)
) WITHOUT ROWID;

-- The same for each day of UTC (day: the Unix seconds of its beginning), so that a report on a year need not read all of
-- its quarters of an hour.
CREATE TABLE daily_rollups (
    day INTEGER NOT NULL,
    service TEXT NOT NULL,
    credential TEXT NOT NULL,
    user_name TEXT NOT NULL,
    model TEXT NOT NULL,
    requests INTEGER NOT NULL,
    input INTEGER NOT NULL,
    output INTEGER NOT NULL,
    cache_read INTEGER NOT NULL,
    cache_creation INTEGER NOT NULL,
    cache_creation_5m INTEGER NOT NULL,
    cache_creation_1h INTEGER NOT NULL,
    reasoning INTEGER NOT NULL,
    cost_nano_usd INTEGER NOT NULL,
    unpriced INTEGER NOT NULL,
    incomplete INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    extra INTEGER NOT NULL,
    PRIMARY KEY (day, service, credential, user_name, model)
) WITHOUT ROWID;

-- The same for each session and day of UTC. Kept only as long as the records, because there are ever new sessions. In the
-- order of sessions, so that summing them needs no sorting.
CREATE TABLE session_rollups (
    session TEXT NOT NULL,
    day INTEGER NOT NULL,
    service TEXT NOT NULL,
    credential TEXT NOT NULL,
    user_name TEXT NOT NULL,
    model TEXT NOT NULL,
    requests INTEGER NOT NULL,
    input INTEGER NOT NULL,
    output INTEGER NOT NULL,
    cache_read INTEGER NOT NULL,
    cache_creation INTEGER NOT NULL,
    cache_creation_5m INTEGER NOT NULL,
    cache_creation_1h INTEGER NOT NULL,
    reasoning INTEGER NOT NULL,
    cost_nano_usd INTEGER NOT NULL,
    unpriced INTEGER NOT NULL,
    incomplete INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    extra INTEGER NOT NULL,
    PRIMARY KEY (session, day, service, credential, user_name, model)
) WITHOUT ROWID;

INSERT INTO store_state (only_row, version, oldest_program, forgotten_until) VALUES (1, 1, 1, -1.0);

-- "ccmp": what tells it from the databases of other programs.
PRAGMA application_id = 1667460464;
