-- The log, rooms, events, state, accounts: everything the append path writes. Times are ms since 1970.

-- One row: the newest position of the log and the next free number for rooms, events, users, keys and snapshots.
CREATE TABLE log_head (
    id        BIGINT PRIMARY KEY CHECK (id = 1),
    pos       BIGINT NOT NULL,
    next_nid  BIGINT NOT NULL,
    commits   BIGINT NOT NULL,           -- transactions of writers so far, counted on PostgreSQL only
    run       BIGINT NOT NULL            -- who writes: runs.boot
);
INSERT INTO log_head (id, pos, next_nid, commits, run) VALUES (1, 0, 1, 0, 0);

-- Each start of the server: the number that its sync tokens bear, and where the log stood (store::runs).
CREATE TABLE runs (
    number  BIGINT PRIMARY KEY,
    boot    BIGINT NOT NULL,
    pos     BIGINT NOT NULL
);

-- What became visible to /sync, in the order of commits. Followed by other nodes and by the outbox; pruned from below.
CREATE TABLE log (
    pos       BIGINT PRIMARY KEY,
    kind      BIGINT NOT NULL,           -- store::log::Kind
    room_nid  BIGINT,
    user_nid  BIGINT,
    ref_nid   BIGINT,
    extra     TEXT
);
-- When the log had come how far; tells the age of a position.
CREATE TABLE log_marks (
    pos    BIGINT PRIMARY KEY,
    at_ms  BIGINT NOT NULL
);

-- Matrix ids <-> numbers.
CREATE TABLE users (
    user_nid  BIGINT PRIMARY KEY,
    user_id   TEXT COLLATE "C" NOT NULL UNIQUE
);
CREATE TABLE state_keys (
    key_nid    BIGINT PRIMARY KEY,
    event_type TEXT NOT NULL,
    state_key  TEXT NOT NULL,
    UNIQUE (event_type, state_key)
);

CREATE TABLE rooms (
    room_nid     BIGINT PRIMARY KEY,
    room_id      TEXT COLLATE "C" NOT NULL UNIQUE,
    version      TEXT NOT NULL,
    rev          BIGINT NOT NULL,        -- counts changes of the row; the optimistic lock of the append path
    snap_nid     BIGINT NOT NULL,        -- current state
    depth        BIGINT NOT NULL,
    extremities  TEXT NOT NULL,          -- JSON array of [event_nid, event_id, depth, after_nid]
    counter      BIGINT NOT NULL,        -- events that notify by the default rules
    pos          BIGINT NOT NULL,        -- of the newest event
    published    BOOLEAN NOT NULL,       -- in the room directory
    open         BOOLEAN NOT NULL,       -- anybody may join or read it; who is in it may be found by everybody
    creator_nid  BIGINT NOT NULL,
    created_ms   BIGINT NOT NULL,
    partial      BOOLEAN NOT NULL,       -- state not complete yet (joined through another server)
    forked       BOOLEAN NOT NULL        -- history has not always been one line of events: positions alone do not tell states
);
CREATE INDEX rooms_published ON rooms (room_nid) WHERE published;

CREATE TABLE events (
    event_nid    BIGINT PRIMARY KEY,
    event_id     TEXT COLLATE "C" NOT NULL UNIQUE,
    room_nid     BIGINT NOT NULL,
    pos          BIGINT,                 -- position in the log; negative if backfilled; NULL if not part of the timeline
    depth        BIGINT NOT NULL,
    standing     BIGINT NOT NULL,        -- store::events::Standing
    sender_nid   BIGINT NOT NULL,
    key_nid      BIGINT,                 -- state events only
    event_type   TEXT NOT NULL,
    origin_ms    BIGINT NOT NULL,
    snap_nid     BIGINT,                 -- state before the event
    after_nid    BIGINT,                 -- state after it; the same unless it is state that was allowed
    auth         BYTEA,                  -- event_nids of its auth events: store::graph::pack; NULL while not all are known
    counter      BIGINT NOT NULL,        -- the room's counter after the event
    replaces_nid BIGINT,                 -- the state event it took the place of
    redacted_by  BIGINT,                 -- event_nid of the redaction
    device_id    TEXT,                   -- who sent it, and under which transaction id: local senders only
    txn_id       TEXT,
    codec        BIGINT NOT NULL,        -- 0: JSON as signed
    json         BYTEA NOT NULL
);
CREATE UNIQUE INDEX events_timeline ON events (room_nid, depth, pos) WHERE pos IS NOT NULL;
CREATE UNIQUE INDEX events_news ON events (room_nid, pos) WHERE pos IS NOT NULL;
CREATE UNIQUE INDEX events_txn ON events (sender_nid, room_nid, txn_id, device_id) WHERE txn_id IS NOT NULL;

-- What a redaction took away, kept for a while for moderators and for appeals.
CREATE TABLE redacted_events (
    event_nid    BIGINT PRIMARY KEY,
    redacted_ms  BIGINT NOT NULL,
    json         BYTEA NOT NULL
);

-- Events we know of by name only: prev_events that have not arrived.
CREATE TABLE missing_events (
    room_nid     BIGINT NOT NULL,
    event_id     TEXT NOT NULL,
    depth        BIGINT NOT NULL,        -- of whoever names it first
    tries        BIGINT NOT NULL,        -- how often others were asked for it in vain
    retry_ms     BIGINT NOT NULL,        -- not to be asked for before
    PRIMARY KEY (room_nid, event_id)
);

-- Events that were news while not all they follow was here: a timeline is not to run over them.
CREATE TABLE gaps (
    room_nid  BIGINT NOT NULL,
    pos       BIGINT NOT NULL,
    PRIMARY KEY (room_nid, pos)
);

-- Redactions of events that are not here yet.
CREATE TABLE redactions_ahead (
    target_id  TEXT NOT NULL,
    event_nid  BIGINT NOT NULL,
    PRIMARY KEY (target_id, event_nid)
);

-- State snapshots: whole (base_nid NULL), or what differs from a whole one. packed: store::state::pack.
CREATE TABLE snaps (
    snap_nid  BIGINT PRIMARY KEY,
    room_nid  BIGINT NOT NULL,
    base_nid  BIGINT,
    packed    BYTEA NOT NULL
);

-- Changes of a room's current state: every one, also those that come of resolution without a new event.
CREATE TABLE state_changes (
    room_nid  BIGINT NOT NULL,
    pos       BIGINT NOT NULL,
    key_nid   BIGINT NOT NULL,
    old_nid   BIGINT,
    new_nid   BIGINT,
    PRIMARY KEY (room_nid, pos, key_nid)
);

-- Current membership of users, local ones and those of joined rooms; what /sync asks first.
CREATE TABLE memberships (
    room_nid    BIGINT NOT NULL,
    user_nid    BIGINT NOT NULL,
    membership  TEXT NOT NULL,           -- join, invite, knock, leave, ban
    event_nid   BIGINT NOT NULL,
    pos         BIGINT NOT NULL,         -- of the last change
    local       BOOLEAN NOT NULL,        -- a user of this server
    forgotten   BOOLEAN NOT NULL,
    stripped    TEXT,                    -- invite_room_state / knock_room_state from another server, JSON array
    PRIMARY KEY (room_nid, user_nid)
);
CREATE INDEX memberships_user ON memberships (user_nid, membership);
CREATE INDEX memberships_local ON memberships (room_nid, user_nid) WHERE local;

-- How far a user has read: the room's counter and the position there.
CREATE TABLE read_positions (
    room_nid  BIGINT NOT NULL,
    user_nid  BIGINT NOT NULL,
    thread    TEXT NOT NULL,             -- '' unthreaded, 'main', or the root's event id
    pos       BIGINT NOT NULL,
    counter   BIGINT NOT NULL,
    PRIMARY KEY (room_nid, user_nid, thread)
);

-- What a user's rules made of an event where that is not what the default rules say of an unmentioned member. Rows of
-- user 0 are what the default rules say of everyone, where the room's counter alone does not tell it (store::push).
CREATE TABLE push_actions (
    user_nid  BIGINT NOT NULL,
    room_nid  BIGINT NOT NULL,
    pos       BIGINT NOT NULL,
    event_nid BIGINT NOT NULL,
    thread    TEXT NOT NULL,
    counted   BOOLEAN NOT NULL,          -- the room's counter went up for this event
    notify    BOOLEAN NOT NULL,
    highlight BOOLEAN NOT NULL,
    actions   TEXT NOT NULL,             -- JSON array as in the rule
    PRIMARY KEY (user_nid, room_nid, pos)
);

CREATE TABLE relations (
    event_nid  BIGINT PRIMARY KEY,
    room_nid   BIGINT NOT NULL,
    target_id  TEXT NOT NULL,
    rel_type   TEXT NOT NULL,
    event_type TEXT NOT NULL,
    sender_nid BIGINT NOT NULL,
    agg_key    TEXT,
    depth      BIGINT NOT NULL,
    pos        BIGINT NOT NULL
);
CREATE INDEX relations_target ON relations (target_id, rel_type, depth, pos);
CREATE INDEX relations_threads ON relations (room_nid, rel_type, pos);

CREATE TABLE receipts (
    room_nid  BIGINT NOT NULL,
    user_nid  BIGINT NOT NULL,
    kind      TEXT NOT NULL,             -- m.read, m.read.private
    thread    TEXT NOT NULL,             -- '' unthreaded
    event_id  TEXT NOT NULL,
    ts_ms     BIGINT NOT NULL,
    pos       BIGINT NOT NULL,
    PRIMARY KEY (room_nid, user_nid, kind, thread)
);
CREATE INDEX receipts_pos ON receipts (room_nid, pos);

CREATE TABLE account_data (
    user_nid  BIGINT NOT NULL,
    room_nid  BIGINT NOT NULL,           -- 0: global
    kind      TEXT NOT NULL,
    content   TEXT NOT NULL,           -- JSON object; empty: deleted
    pos       BIGINT NOT NULL,
    PRIMARY KEY (user_nid, room_nid, kind)
);
CREATE INDEX account_data_pos ON account_data (user_nid, pos);

CREATE TABLE filters (
    user_nid   BIGINT NOT NULL,
    filter_id  BIGINT NOT NULL,
    json       TEXT NOT NULL,
    PRIMARY KEY (user_nid, filter_id)
);

CREATE TABLE aliases (
    alias       TEXT PRIMARY KEY,
    room_nid    BIGINT NOT NULL,
    creator_nid BIGINT NOT NULL
);
CREATE INDEX aliases_room ON aliases (room_nid);
