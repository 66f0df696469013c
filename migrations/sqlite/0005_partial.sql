-- Rooms whose state came in part, and what stands on that part.

-- They are usable, and the rest is fetched meanwhile.
CREATE TABLE partial_rooms (
    room_nid  INTEGER PRIMARY KEY,
    join_nid  BIGINT NOT NULL,           -- the event by which we came in
    via       TEXT NOT NULL,             -- the server that let us in
    servers   TEXT NOT NULL,             -- those that were there before us, as it said: JSON array
    tries     BIGINT NOT NULL,           -- how often all of them were asked in vain
    retry_ms  BIGINT NOT NULL            -- not to be asked before
);

-- Events whose states are not whole, each after those it follows; they get others.
CREATE TABLE partial_events (
    room_nid  BIGINT NOT NULL,
    rev       BIGINT NOT NULL,           -- the room's, when the event was placed
    event_nid BIGINT NOT NULL,
    PRIMARY KEY (room_nid, rev)
) WITHOUT ROWID;
CREATE UNIQUE INDEX partial_events_event ON partial_events (event_nid);

-- Where in the log the state of a room became whole; 0 if it always was, or is not yet.
ALTER TABLE rooms ADD COLUMN whole_pos BIGINT NOT NULL DEFAULT 0;
