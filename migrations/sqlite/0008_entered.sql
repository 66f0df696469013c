-- The depth of the event by which we came into a room through another server; 0 for rooms made here.
ALTER TABLE rooms ADD COLUMN entered_depth BIGINT NOT NULL DEFAULT 0;
UPDATE rooms SET entered_depth = COALESCE((SELECT MIN(depth) FROM events WHERE events.room_nid = rooms.room_nid AND events.pos > 0), 0);
