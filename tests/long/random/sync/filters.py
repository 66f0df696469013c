"""The filters that devices use, and what passes one (client-server API, "Filtering")."""
import re

LAZY = {"lazy_load_members": True}
MESSAGES, SOME_STATE = ["m.room.message"], ["m.room.name", "m.room.member", "org.x.*"]


def fits(pattern, text):
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None


def passes(criteria, kind, sender, room_id):
    """Whether an event of this kind and sender passes."""
    if criteria.get("types") is not None and not any(fits(pattern, kind) for pattern in criteria["types"]):
        return False
    if any(fits(pattern, kind) for pattern in criteria.get("not_types", [])):
        return False
    if criteria.get("senders") is not None and sender not in criteria["senders"] or sender in criteria.get("not_senders", []):
        return False
    return has_room(criteria, room_id)


def has_room(criteria, room_id):
    return (criteria.get("rooms") is None or room_id in criteria["rooms"]) and room_id not in criteria.get("not_rooms", [])


def of_room(state_after=False, timeline=None, state=None, **room):
    """-> (filter, whether state is wanted as of the timeline's end)."""
    return {"room": {"timeline": timeline or {}, "state": state or {}, **room}}, state_after


def standing(someone):
    """Filters that need no rooms: {name: (filter, state_after)}. `someone` is whose events some of them take or leave."""
    threads = {"unread_thread_notifications": True}
    fields = ["type", "content", "sender", "event_id", "state_key", "origin_server_ts"]
    quiet = of_room(ephemeral={"not_types": ["*"]}, account_data={"not_types": ["*"]}, timeline={"limit": 3})
    quiet[0].update(account_data={"types": []}, presence={"not_types": ["*"]})
    few = of_room(ephemeral={"types": ["m.receipt"]}, account_data={"types": ["m.tag", "m.fully_read"]}, timeline={"limit": 3})
    few[0].update(account_data={"not_types": ["m.push_rules"]}, presence={"types": []})
    named = of_room(timeline={"limit": 10})
    named[0]["event_fields"] = fields
    return {
        "none": ({}, False), "one": of_room(timeline={"limit": 1}), "three": of_room(timeline={"limit": 3}),
        "no timeline": of_room(timeline={"limit": 0}), "lazy": of_room(state=LAZY, timeline={"limit": 3}),
        "lazy, redundant": of_room(state={**LAZY, "include_redundant_members": True}),
        "lazy, messages": of_room(state=LAZY, timeline={"types": MESSAGES, "limit": 4}),
        "lazy, threads": of_room(state=LAZY, timeline={**threads, "limit": 20}),
        "left rooms": of_room(include_leave=True, timeline={"limit": 10}), "threads": of_room(timeline={**threads, "limit": 20}),
        "types": of_room(timeline={"types": ["m.room.message", "m.room.mem*"], "limit": 5}),
        "not types": of_room(timeline={"not_types": ["m.room.member", "m.room.name", "m.room.power_levels"], "limit": 5},
                             state={"not_types": ["m.room.topic"]}),
        "sender": of_room(timeline={"senders": [someone], "limit": 5}), "state types": of_room(state={"types": SOME_STATE}, timeline={"limit": 6}),
        "not sender": of_room(timeline={"not_senders": [someone], "limit": 4}, state={"not_senders": [someone]}),
        "after": of_room(True, timeline={"limit": 3}), "after, lazy": of_room(True, state=LAZY, timeline={**threads, "limit": 4}),
        "after, messages": of_room(True, timeline={"types": MESSAGES, "limit": 4}),
        "after, state types": of_room(True, state={"types": SOME_STATE}, timeline={"limit": 2, "not_types": ["m.reaction"]}),
        "quiet": quiet, "few": few, "fields": named,
    }


def of_rooms(rooms):
    """Filters that name rooms, made once there are some."""
    combined = {**LAZY, "not_rooms": rooms[2:3]}, {"limit": 2, "not_rooms": rooms[:1], "unread_thread_notifications": True}
    return {
        "rooms": of_room(rooms=rooms[:2], timeline={"limit": 4}), "state rooms": of_room(state={"rooms": rooms[:2]}, timeline={"limit": 4}),
        "after, not rooms": of_room(True, not_rooms=rooms[:1], timeline={"limit": 4}),
        "timeline not rooms": of_room(timeline={"not_rooms": rooms[1:2], "limit": 4}),
        "combined": of_room(state=combined[0], timeline=combined[1]),
    }
