-- One row per key that somebody holds or has held until its time ran out and no sweeper has come by.
-- Renewals rewrite expires_at all the time. No index contains it, so each of them is a heap-only
-- update that fits into the free half of its page, and the few thousand rows of even a large
-- installation are read whole faster than an index would be kept.
CREATE TABLE claims (
    key         text COLLATE "C" PRIMARY KEY,
    type        smallint    NOT NULL,
    owner       text        NOT NULL,
    holder      text        NOT NULL,
    value       text        NOT NULL,
    ttl_ms      bigint      NOT NULL,
    expires_at  timestamptz NOT NULL,
    acquired_at timestamptz NOT NULL,
    token       bigint      NOT NULL,
    incarnation bigint      NOT NULL,
    CHECK (key <> '' AND owner <> '' AND ttl_ms > 0 AND type IN (1, 2))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- Every change of who holds what, for the watches of all servers, in the order of the commits:
-- whoever inserts holds the advisory lock of the log until its transaction has ended. Kept for some
-- minutes only. A revision is also the fencing token of the acquisition that it numbers.
CREATE SEQUENCE claim_revision AS bigint;

CREATE TABLE claim_log (
    revision    bigint      PRIMARY KEY DEFAULT nextval('claim_revision'),
    kind        smallint    NOT NULL,
    logged_at   timestamptz NOT NULL DEFAULT now(),
    key         text        NOT NULL,
    type        smallint    NOT NULL,
    owner       text        NOT NULL,
    holder      text        NOT NULL,
    value       text        NOT NULL,
    ttl_ms      bigint      NOT NULL,
    expires_at  timestamptz NOT NULL,
    acquired_at timestamptz NOT NULL,
    token       bigint      NOT NULL,
    incarnation bigint      NOT NULL
);

-- The notification leaves with the commit, and no statement can forget it.
CREATE FUNCTION claim_log_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('claim_log', '');
    RETURN NULL;
END $$;

CREATE TRIGGER claim_log_notify AFTER INSERT ON claim_log FOR EACH ROW EXECUTE FUNCTION claim_log_notify();

-- One row. seen is when a server last found the database working: a gap means that nobody could
-- renew, or that the clock was set. pruned is the highest revision that the log has lost.
CREATE TABLE claim_clock (
    one    boolean     PRIMARY KEY DEFAULT true CHECK (one),
    seen   timestamptz NOT NULL,
    pruned bigint      NOT NULL DEFAULT 0
) WITH (fillfactor = 10);

INSERT INTO claim_clock (seen) VALUES (clock_timestamp());

---- create above / drop below ----

DROP TABLE claim_clock;
DROP TABLE claim_log;
DROP FUNCTION claim_log_notify();
DROP SEQUENCE claim_revision;
DROP TABLE claims;
