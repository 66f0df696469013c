-- How users of other servers were when their servers last spoke of them, so that a restart does not take them for gone.
CREATE TABLE remote_presence (
    user_nid   INTEGER PRIMARY KEY,
    presence   TEXT NOT NULL,            -- online, unavailable, offline
    status     TEXT,                     -- what they say
    active_ms  BIGINT NOT NULL,          -- when they last did something
    heard_ms   BIGINT NOT NULL           -- when their server said so
);
CREATE INDEX remote_presence_heard ON remote_presence (heard_ms);
