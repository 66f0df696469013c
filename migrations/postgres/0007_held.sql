-- Events of other servers that cannot be placed yet: what they follow could not be asked for when they came.

CREATE TABLE held_events (
    event_id  TEXT PRIMARY KEY,
    room_nid  BIGINT NOT NULL,
    origin    TEXT NOT NULL,             -- the server that sent it
    json      TEXT NOT NULL,
    tries     BIGINT NOT NULL,           -- how often it was tried again in vain
    retry_ms  BIGINT NOT NULL            -- not to be tried before
);
CREATE INDEX held_events_room ON held_events (room_nid, origin);
CREATE INDEX held_events_origin ON held_events (origin);
CREATE INDEX held_events_retry ON held_events (retry_ms);
