"""Which section of an answer a room must stand in, and answers made comparable.

A room stands in one section at most: `join` if the user is in it and anything of it is news, the others when a membership
changed. Not checked for who ever ignored somebody: whether an invite was told then depends on when.
"""
import copy

from sync.filters import passes

SECTIONS = ("join", "invite", "knock", "leave")


def check(observer, rooms, full_state):
    shown = {section: set(rooms.get(section, {})) for section in SECTIONS}
    for room_id in set().union(*shown.values()):
        if sum(room_id in of for of in shown.values()) > 1:
            observer.report("a room in two sections", room=room_id)
        if not observer.wants_room(room_id):
            observer.report("a room that the filter leaves out", room=room_id)
    for room in observer.life.truth.rooms.values():
        if observer.wants_room(room.id):
            where = next((section for section in SECTIONS if room.id in shown[section]), None)
            wrong = mistake(observer, room, where, rooms, full_state)
            if wrong:
                observer.report(f"section: {wrong}", room=room.id, where=where, was_and_became=observer.was_and_became(room), full_state=full_state)


def mistake(observer, room, where, rooms, full_state):
    """What is wrong with the section a room stands in; `None` if nothing is."""
    was, became = observer.was_and_became(room)
    now = room.membership(observer.user.id)
    has_ignored = bool(observer.user.ever_ignored)
    if observer.since is None:
        if now in ("join", "knock") and where != now or now == "invite" and where != now and not has_ignored:
            return f"{now} is not told at first"
        return "a stranger's room" if now is None and where else None
    if not became:
        if now == "join":
            return f"still joined, told as {where}" if where not in (None, "join") else "full_state without it" if full_state and not where else None
        return "told again" if where and not full_state else None
    if now == "join":
        return joined_mistake(observer, room, where, rooms, was, became)
    if now == "invite":
        inviter = next(event.sender for event in reversed(room.events) if event.is_member(observer.user.id))
        if where and inviter in observer.user.ignored:
            return "an ignored user's invite"
        return "invite is not told" if where != "invite" and not has_ignored else None
    if now == "knock":
        return "knock is not told" if where != "knock" else None
    if where not in (None, "leave"):
        return f"left, told as {where}"
    was_told = was in ("join", "invite", "knock", "ban") or any(what in ("join", "invite", "knock") for what in became)
    return "leave is not told" if where is None and was_told and not has_ignored else None


def joined_mistake(observer, room, where, rooms, was, became):
    is_new = was != "join" or any(what != "join" for what in became)
    if where == "join":
        return "entered, and not limited" if is_new and not rooms["join"][room.id]["timeline"]["limited"] else None
    if where or is_new:
        return "join is not told"
    own = next(event for event in reversed(room.events) if event.is_member(observer.user.id))
    return "a new name is not told" if observer.limit and passes(observer.of_timeline, own.type, own.sender, room.id) else None


def comparable(answer):
    """An answer without what differs from moment to moment, nor the order of what has none."""
    answer = without(copy.deepcopy(answer), ("age", "last_active_ago"))
    answer.pop("next_batch", None)
    answer.pop("presence", None)
    for of in answer.get("rooms", {}).values():
        for room in of.values():
            for part in ("state", "state_after"):
                room.get(part, {}).get("events", []).sort(key=lambda event: event["event_id"])
            room.get("account_data", {}).get("events", []).sort(key=lambda event: event["type"])
    answer.get("account_data", {}).get("events", []).sort(key=lambda event: event["type"])
    for users in answer.get("device_lists", {}).values():
        users.sort()
    return answer


def without(value, names):
    if isinstance(value, dict):
        return {name: without(item, names) for name, item in value.items() if name not in names}
    return [without(item, names) for item in value] if isinstance(value, list) else value


def take_members_out(observer, answer):
    """Takes member events out of the state of all rooms; gives their ids."""
    part, taken = "state_after" if observer.state_after else "state", set()
    for section in ("join", "leave"):
        for room in answer.get("rooms", {}).get(section, {}).values():
            events = room.get(part, {}).get("events", [])
            taken |= {event["event_id"] for event in events if event["type"] == "m.room.member"}
            if events:
                room[part]["events"] = [event for event in events if event["type"] != "m.room.member"]
    return taken
