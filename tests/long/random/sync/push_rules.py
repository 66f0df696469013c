"""The push rules of a user, as they were at each time, and what they say to an event (client-server API, "Push Rules").

Modelled: the default rules, of which two may be turned off, and three kinds of a user's own: a room that is muted, rules of
rooms, and a word. Not modelled: other conditions, rules of senders, sounds.
"""
import copy

SILENT_KINDS = ("m.reaction", "m.room.server_acl")
HIGHLIGHTS = ["notify", {"set_tweak": "highlight"}]


class Rules:
    def __init__(self):
        self.muted, self.rooms, self.has_word, self.hides_notices, self.tells_messages = set(), {}, False, True, True

    def judge(self, user, room, event, state):
        """`None` if an event does not notify, else whether it highlights: the rules in their order."""
        content, mentions = event.content, event.content.get("m.mentions") or {}
        is_message = event.type == "m.room.message"
        if room.id in self.muted or is_message and content.get("msgtype") == "m.notice" and self.hides_notices or event.type == "m.room.member":
            return None
        if user.id in mentions.get("user_ids", []) or mentions.get("room") and may_notify_all(room, event.sender, state):
            return True
        if event.key == ("m.room.tombstone", ""):
            return True
        if event.type in SILENT_KINDS or event.sent_relation.get("rel_type") == "m.replace":
            return None
        if self.has_word and "keyword" in str(content.get("body", "")).split():
            return True
        if room.id in self.rooms:
            return self.rooms[room.id] == HIGHLIGHTS if self.rooms[room.id] else None
        joined = sum(one.membership == "join" for key, one in state.items() if key[0] == "m.room.member")
        return False if is_message and (self.tells_messages or joined == 2) else None


def may_notify_all(room, sender, state):
    create = room.events[0]
    if room.version == "12" and sender in (create.sender, *create.content.get("additional_creators", [])):
        return True
    levels = room.content("m.room.power_levels", state)
    level = levels.get("users", {}).get(sender, levels.get("users_default", 0))
    return level >= levels.get("notifications", {}).get("room", 50)


class History:
    """The rules of a user in the course of time."""

    def __init__(self):
        self.times = [(Rules(), {})]

    def change(self, life, change):
        """From now on, for what happens next in each room."""
        rules = copy.deepcopy(self.times[-1][0])
        change(rules)
        self.times.append((rules, {room.id: len(room.events) for room in life.truth.rooms.values()}))

    def at(self, room, place):
        return next(rules for rules, since in reversed(self.times) if since.get(room.id, 0) <= place)
