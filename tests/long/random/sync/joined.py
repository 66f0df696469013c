"""What a device takes from an answer about a room that its user is in, and what of that can be judged at once.

Modelled: state and timeline put together over all answers, with what lies between a limited timeline and the last answer read
from /messages; summary, account data, receipts, typing, unread counts; who must be known with lazily loaded members.
"""
import json

from asking import CLIENT, quoted
from sync.filters import passes

GAP_PAGES = 300


class Picture:
    """A room as a device knows it."""

    def __init__(self):
        self.state, self.timeline, self.summary, self.account_data = {}, [], {}, {}
        self.receipts, self.typing, self.unread, self.threads = {}, [], None, None


def take(observer, room, shown, full_state):
    is_new = room.id not in observer.joined
    picture = observer.joined.setdefault(room.id, Picture())
    if observer.is_new(room):
        # Who was out of the room meanwhile is told it from the start, and may not have what went on without them.
        picture.state, picture.timeline, picture.summary, is_new = {}, [], {}, True
    timeline = shown["timeline"]
    events = timeline["events"]
    if len(events) > observer.limit:
        observer.report("timeline beyond its limit", room=room.id, events=len(events))
    state = shown.get("state_after" if observer.state_after else "state", {}).get("events", [])
    check_state(observer, room, shown, state, full_state)
    picture.state.update({(event["type"], event["state_key"]): event for event in state})
    for event in events:
        check_event(observer, room, event)
        if "state_key" in event and not observer.state_after:
            picture.state[event["type"], event["state_key"]] = event
        if observer.is_lazy:
            check_sender(observer, room, picture, event)
    if timeline["limited"] and not is_new:
        picture.timeline += gap(observer, room, picture, timeline)
    again = {event["event_id"] for event in picture.timeline} & {event["event_id"] for event in events}
    if again:
        observer.report("an event is told twice", room=room.id, events=sorted(again), full_state=full_state)
    picture.timeline += events
    take_rest(observer, room, picture, shown)


def check_state(observer, room, shown, state, full_state):
    keys = [(event["type"], event.get("state_key")) for event in state]
    if len(set(keys)) != len(keys):
        observer.report("state: two of one key", room=room.id, keys=[key for key in keys if keys.count(key) > 1])
    if observer.state_after and shown.get("state", {}).get("events"):
        observer.report("state beside state_after", room=room.id)
    both = {event["event_id"] for event in state} & {event["event_id"] for event in shown["timeline"]["events"]}
    if both and not observer.state_after:
        observer.report("state: also in the timeline", room=room.id, events=sorted(both), full_state=full_state)
    for event in state:
        if not passes(observer.of_state, event["type"], event["sender"], room.id):
            observer.report("state: the filter leaves it out", room=room.id, event=event)


def check_event(observer, room, event):
    if not passes(observer.of_timeline, event["type"], event["sender"], room.id):
        observer.report("timeline: the filter leaves it out", room=room.id, event=event)
    if event["sender"] in observer.user.ignored and "state_key" not in event:
        observer.report("timeline: of an ignored user", room=room.id, event=event)
    thread = event.get("unsigned", {}).get("m.relations", {}).get("m.thread", {})
    if thread.get("latest_event", {}).get("sender") in observer.user.ignored:
        observer.report("a thread's last event: of an ignored user", room=room.id, event=event)


def check_sender(observer, room, picture, event):
    """Who speaks must be known by then; the first member event stands behind what creates the room."""
    if passes(observer.of_state, "m.room.member", event["sender"], room.id) and ("m.room.member", event["sender"]) not in picture.state \
            and event["type"] != "m.room.create":
        observer.report("a sender is not known", room=room.id, event=event["event_id"], sender=event["sender"], since=observer.since,
                        memberships=room.memberships(event["sender"]), own=room.memberships(observer.user.id))


def gap(observer, room, picture, timeline):
    """What lies between the last answer and a limited timeline, oldest first."""
    found, token, pages = [], timeline.get("prev_batch"), 0
    while token and pages < GAP_PAGES:
        status, page = observer.life.line.ask("GET", f"{CLIENT}/rooms/{quoted(room.id)}/messages", token=observer.token, dir="b", limit=7,
                                              to=observer.since, filter=timeline_filter(observer), **{"from": token})
        if status != 200:
            observer.report("a gap is refused", room=room.id, status=status, answer=page)
            break
        found += page["chunk"]
        token, pages = page.get("end"), pages + 1
    ids = [event["event_id"] for event in found]
    old, new = ({event["event_id"] for event in events} for events in (picture.timeline, timeline["events"]))
    if len(set(ids)) != len(ids) or old & set(ids) or new & set(ids):
        observer.report("a gap has what was told", room=room.id, twice=len(ids) - len(set(ids)), before=sorted(old & set(ids)), after=sorted(new & set(ids)),
                        since=observer.since, prev_batch=timeline.get("prev_batch"))
    return found[::-1]


def timeline_filter(observer):
    return json.dumps({name: value for name, value in observer.of_timeline.items() if name != "unread_thread_notifications"})


def take_rest(observer, room, picture, shown):
    for event in shown.get("account_data", {}).get("events", []):
        picture.account_data[event["type"]] = event["content"]
    receipts, typing = ephemeral(shown)
    picture.receipts.update(receipts)
    picture.typing = picture.typing if typing is None else typing
    if any(kind == "m.read.private" and user != observer.user.id for user, kind, _ in receipts):
        observer.report("a private receipt of another user", room=room.id)
    picture.summary.update(shown.get("summary", {}))
    if "unread_notifications" in shown:
        picture.unread, picture.threads = shown["unread_notifications"], shown.get("unread_thread_notifications", {})
    if observer.is_lazy:
        for hero in picture.summary.get("m.heroes", []):
            if ("m.room.member", hero) not in picture.state and passes(observer.of_state, "m.room.member", hero, room.id):
                observer.report("a hero is not known", room=room.id, hero=hero, summary=shown.get("summary"), since=observer.since)


def ephemeral(shown):
    """-> ({(user, kind, thread): (event, time)}, who types or `None`)."""
    receipts, typing = {}, None
    for event in shown.get("ephemeral", {}).get("events", []):
        if event["type"] == "m.typing":
            typing = sorted(event["content"]["user_ids"])
        elif event["type"] == "m.receipt":
            for event_id, kinds in event["content"].items():
                for kind, users in kinds.items():
                    for user, data in users.items():
                        receipts[user, kind, data.get("thread_id")] = (event_id, data["ts"])
    return receipts, typing
