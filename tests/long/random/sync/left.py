"""What an answer says of a room that the user has left: all up to their leaving, and state as it was then.

Modelled for who was in the room at the last answer and left since, once, by the newest event about them that the filter lets
pass. Whoever came and left again between two answers, or was banned after having left, is not looked at here.
"""
from sync.filters import passes


def take(observer, room, shown):
    picture = observer.joined.get(room.id)
    memberships = room.memberships(observer.user.id)
    if observer.since is None or not memberships or (observer.user.id, room.id) in observer.life.forgotten:
        return
    own = room.events[memberships[-1][0]]
    if not passes(observer.of_timeline, own.type, own.sender, room.id) or memberships[-1][0] != room.left_at(observer.user.id):
        return
    events = shown.get("timeline", {}).get("events", [])
    if observer.limit and (not events or events[-1]["event_id"] != own.id):
        observer.report("left: the leave is not last", room=room.id, last=events[-1:], own=own.id, memberships=memberships)
    was, became = observer.was_and_became(room)
    if picture is None or was != "join" or any(what == "join" for what in became) and any(what != "join" for what in became[:-1]):
        return
    check_timeline(observer, room, picture, shown, events)
    if not observer.is_lazy and not observer.of_state:
        check_state(observer, room, picture, shown, events)


def check_timeline(observer, room, picture, shown, events):
    ids = [event["event_id"] for event in events]
    if {event["event_id"] for event in picture.timeline} & set(ids):
        observer.report("left: an event is told twice", room=room.id)
    ignored = observer.user.ever_ignored
    seen = [event for event in room.visible(observer.user.id) if passes(observer.of_timeline, event.type, event.sender, room.id)]
    last, first = room.left_at(observer.user.id), observer.upto.get(room.id, 0)
    want = [event.id for event in seen if first <= room.places[event.id] <= last and event.sender not in ignored]
    got = [event_id for event_id in ids if event_id in room.places and room.get(event_id).sender not in ignored]
    if got != (want[len(want) - len(got):] if shown["timeline"]["limited"] else want):
        observer.report("left: timeline", room=room.id, want=want[-12:], got=got, limited=shown["timeline"]["limited"])


def check_state(observer, room, picture, shown, events):
    state = dict(picture.state)
    told = shown.get("state_after" if observer.state_after else "state", {}).get("events", [])
    for event in told if observer.state_after else [*told, *events]:
        if "state_key" in event:
            state[event["type"], event["state_key"]] = event
    want = room.state_ids(room.left_at(observer.user.id) + 1)
    wrong = [(key, state.get(key, {}).get("event_id"), event_id) for key, event_id in want.items() if state.get(key, {}).get("event_id") != event_id]
    if wrong:
        observer.report("left: state", room=room.id, wrong=wrong[:5])
