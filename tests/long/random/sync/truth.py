"""What really happened: the stream of a member who makes every room and never leaves one.

Modelled: the order of events of each room, what is current state, who was what and when, what is redacted, and what each user
may see by the rules of history visibility (client-server API, "Room History Visibility"). Not modelled: content that redaction
takes from state (only the relation of a message is taken away), and a redacted history visibility.
"""
import json
import threading

from asking import CLIENT, quoted

ALL = json.dumps({"room": {"timeline": {"limit": 100}}})


class Event:
    def __init__(self, raw):
        self.id, self.type, self.sender, self.ts = raw["event_id"], raw["type"], raw["sender"], raw["origin_server_ts"]
        self.is_state, self.key = "state_key" in raw, (raw["type"], raw.get("state_key"))
        # The place of the first redaction, if it was redacted.
        self.content, self.redacted_at = raw["content"], None
        relation = raw["content"].get("m.relates_to")
        # As it was sent; what a redaction leaves of it is `relation`.
        self.sent_relation = relation if isinstance(relation, dict) else {}

    @property
    def is_redacted(self):
        return self.redacted_at is not None

    @property
    def relation(self):
        return {} if self.is_redacted and not self.is_state else self.sent_relation

    @property
    def membership(self):
        return self.content.get("membership")

    def relation_at(self, place):
        """What an event at that place finds, if it relates to this one."""
        return {} if self.is_redacted and self.redacted_at < place else self.sent_relation

    def is_member(self, user_id):
        return self.key == ("m.room.member", user_id)

    def is_from(self, users):
        """Whether ignoring these users hides it: state is shown whoever sets it."""
        return not self.is_state and self.sender in users


class Room:
    def __init__(self, room_id):
        self.id, self.events, self.places, self.is_encrypted = room_id, [], {}, False
        # Upgraded, and left to itself.
        self.is_closed = False

    def add(self, raw):
        event = Event(raw)
        self.places[event.id] = len(self.events)
        self.events.append(event)
        self.is_encrypted |= event.type == "m.room.encryption"
        if event.type == "m.room.redaction":
            target = self.get(event.content.get("redacts") or raw.get("redacts"))
            if target and not target.is_redacted:
                target.redacted_at = self.places[event.id]

    def get(self, event_id):
        place = self.places.get(event_id)
        return None if place is None else self.events[place]

    @property
    def version(self):
        return self.events[0].content.get("room_version", "1")

    def memberships(self, user_id):
        """[(place, membership)] of a user, oldest first."""
        return [(n, event.membership) for n, event in enumerate(self.events) if event.is_member(user_id)]

    def membership(self, user_id):
        return next((event.membership for event in reversed(self.events) if event.is_member(user_id)), None)

    def state(self, upto=None):
        """Current state, or that before an event: {key: event}."""
        return {event.key: event for event in self.events[:upto] if event.is_state}

    def state_ids(self, upto=None):
        return {key: event.id for key, event in self.state(upto).items()}

    def content(self, kind, state=None):
        event = (self.state() if state is None else state).get((kind, ""))
        return event.content if event else {}

    @property
    def is_world_readable(self):
        return self.content("m.room.history_visibility").get("history_visibility") == "world_readable"

    def left_at(self, user_id):
        """Place of the event by which a user left who was in the room and is not now."""
        memberships = self.memberships(user_id)
        joins = [n for n, what in memberships if what == "join"]
        return next((n for n, _ in memberships if n > joins[-1]), None) if joins else None

    def visible(self, user_id):
        """The events that a user may see, in order."""
        last_join = max((n for n, what in self.memberships(user_id) if what == "join"), default=-1)
        visibility, membership, seen = "shared", None, []
        for n, event in enumerate(self.events):
            # What changes either is seen by whom it may be seen before or after it.
            visibilities, memberships = [visibility], [membership]
            if event.key == ("m.room.history_visibility", ""):
                visibility = event.content.get("history_visibility", "shared")
                visibilities.append(visibility)
            if event.is_member(user_id):
                membership = event.membership
                memberships.append(membership)
            if any(may_see(a, b, n < last_join) for a in visibilities for b in memberships):
                seen.append(event)
        return seen


def may_see(visibility, membership, joined_later):
    if visibility == "world_readable" or membership == "join":
        return True
    return joined_later if visibility == "shared" else visibility == "invited" and membership == "invite"


def gap(line, token, room_id, start, end):
    """The events of a room back from a token to another, or to its beginning; oldest first."""
    found = []
    while start:
        status, page = line.ask_until("GET", f"{CLIENT}/rooms/{quoted(room_id)}/messages", token=token, dir="b", limit=100, to=end, **{"from": start})
        if status != 200:
            # Whoever was put out of a room meanwhile may not page it any more.
            return found[::-1]
        found += page["chunk"]
        start = page.get("end") if page["chunk"] else None
    return found[::-1]


class Truth:
    def __init__(self, line, witness, findings):
        self.line, self.witness, self.findings = line, witness, findings
        self.rooms, self.since, self.lock = {}, None, threading.RLock()

    def update(self):
        with self.lock:
            self._update()

    def _update(self):
        status, answer = self.line.ask_until("GET", CLIENT + "/sync", token=self.witness.token, timeout=0, filter=ALL, since=self.since)
        if status != 200:
            raise RuntimeError(f"the witness's sync: {status} {answer}")
        for room_id, shown in answer.get("rooms", {}).get("join", {}).items():
            room = self.rooms.setdefault(room_id, Room(room_id))
            timeline = shown["timeline"]
            events = timeline["events"]
            if timeline["limited"]:
                events = gap(self.line, self.witness.token, room_id, timeline["prev_batch"], self.since if room.events else None) + events
            for raw in events:
                if raw["event_id"] not in room.places:
                    room.add(raw)
                elif not timeline["limited"]:
                    self.findings.report("the witness is told twice", room=room_id, event=raw)
        self.since = answer["next_batch"]

    def joined(self, user_id):
        return [room for room in self.rooms.values() if room.membership(user_id) == "join"]

    def being(self, user_id, *memberships):
        return [room for room in self.rooms.values() if room.membership(user_id) in memberships]

    def open_rooms(self):
        return [room for room in self.rooms.values() if not room.is_closed]

    def sharing(self, user_id, encrypted):
        """Who shares a room, or an encrypted one, with a user."""
        rooms = [room for room in self.joined(user_id) if room.is_encrypted or not encrypted]
        return {key[1] for room in rooms for key, event in room.state().items() if key[0] == "m.room.member" and event.membership == "join"} - {user_id}
