-- Rooms whose state at our join could not all be checked, and what it takes to fill the hole.

-- Servers of whose keys none was to be had by which what they signed of that state could be proved.
CREATE TABLE lacking_keys (
    room_nid  BIGINT NOT NULL,
    server    TEXT NOT NULL,
    join_nid  BIGINT NOT NULL,           -- the event by which we came in
    via       TEXT NOT NULL,             -- the server that told the state
    noted_ms  BIGINT NOT NULL,
    tries     BIGINT NOT NULL,           -- how often the state was asked for again in vain
    retry_ms  BIGINT NOT NULL,           -- not to be asked for before
    PRIMARY KEY (room_nid, server)
);

-- The state of a room was whole before, with a hole in it: its events are judged again from our join on.
ALTER TABLE partial_rooms ADD COLUMN again BOOLEAN NOT NULL DEFAULT FALSE;

-- What was placed and is not shown (rejected, soft-failed): to be judged again with the rest.
CREATE INDEX events_hidden ON events (room_nid, depth) WHERE pos IS NULL AND after_nid IS NOT NULL;
