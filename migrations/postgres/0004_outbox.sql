-- What is owed to other servers, and what they told us of their users' devices.

-- How far servers are that are behind in what the log holds for them; the row of the empty name stands for all others.
CREATE TABLE outbox_cursors (
    server    TEXT PRIMARY KEY,
    pos       BIGINT NOT NULL,           -- acknowledged, or not owed, up to this position of the log
    since_ms  BIGINT NOT NULL            -- behind since then
);

-- Messages to devices of other servers, until these have acknowledged them.
CREATE TABLE outbox_to_device (
    server    TEXT NOT NULL,
    id        BIGINT NOT NULL,           -- grows: the order of sending
    json      TEXT NOT NULL,             -- the EDU
    PRIMARY KEY (server, id)
);

-- The newest change of each device of our users, as other servers are told of it: a chain a user.
CREATE TABLE device_changes (
    user_nid  BIGINT NOT NULL,
    device_id TEXT NOT NULL,             -- '' stands for the cross-signing keys, which are not part of the chain
    pos       BIGINT NOT NULL,           -- stream_id: a log position
    prev      BIGINT NOT NULL,           -- stream_id of the user's change before it; 0: none
    PRIMARY KEY (user_nid, device_id)
);
CREATE UNIQUE INDEX device_changes_pos ON device_changes (pos);

-- Messages from devices of other servers that arrived already.
CREATE TABLE received_to_device (
    server      TEXT NOT NULL,
    message_id  TEXT NOT NULL,
    received_ms BIGINT NOT NULL,
    PRIMARY KEY (server, message_id)
);
CREATE INDEX received_to_device_age ON received_to_device (received_ms);

-- Users of other servers whose devices we follow. Their cross-signing keys stand in cross_signing_keys.
CREATE TABLE remote_device_lists (
    user_nid  BIGINT PRIMARY KEY,
    stream_id BIGINT NOT NULL,           -- the newest change we have
    stale     BOOLEAN NOT NULL           -- changes were missed: to be fetched whole
);
CREATE INDEX remote_device_lists_stale ON remote_device_lists (user_nid) WHERE stale;
CREATE TABLE remote_devices (
    user_nid     BIGINT NOT NULL,
    device_id    TEXT NOT NULL,
    display_name TEXT,
    json         TEXT,                   -- its keys, if it has any
    PRIMARY KEY (user_nid, device_id)
);
