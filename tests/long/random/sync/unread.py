"""What is unread: counts of /sync against a model, and against what /notifications lists.

The model is of those who never ignore anybody, with their push rules (push_rules.py) as they were when an event came. They read by
threads, by receipts of both kinds, and by speaking; one of them, the reader, keeps the default rules and is silent most of the
time. What others count is compared with /notifications, but for who ever ignored somebody: counts keep what the list no longer
shows.
"""
import collections
import json

from asking import CLIENT

FILTER = json.dumps({"room": {"timeline": {"limit": 1, "unread_thread_notifications": True}}})


def check(life):
    for user in life.modelled:
        check_user(life, user)


def check_user(life, user):
    _, answer = life.line.ask("GET", CLIENT + "/sync", token=user.tokens["fresh"], timeout=0, set_presence="offline", filter=FILTER)
    for room_id, shown in answer.get("rooms", {}).get("join", {}).items():
        room = life.truth.rooms[room_id]
        want = counts(life, user, room)
        told = shown.get("unread_thread_notifications") or {}
        got = {thread: pair(count) for thread, count in {**told, "main": shown["unread_notifications"]}.items() if pair(count) != (0, 0)}
        life.findings.count("rooms counted")
        if got != want:
            life.findings.report("unread counts against the model", user=user.id, room=room_id, got=got, want=want,
                                 read={key[2]: place for key, place in life.read_upto.items() if key[:2] == (user.id, room_id)})


def pair(count):
    return count["notification_count"], count["highlight_count"]


def counts(life, user, room):
    """{thread or "main": (notified, highlighted)}."""
    own = max((n for n, event in enumerate(room.events) if event.sender == user.id), default=-1)
    read = life.read_upto
    base = max(read[user.id, room.id, None], own)
    entered = max((n for n, what in room.memberships(user.id) if what != "join"), default=-1)
    found, state = collections.defaultdict(lambda: [0, 0]), {}
    for n, event in enumerate(room.events):
        if event.is_state:
            state[event.key] = event
        if n <= max(base, entered) or event.sender == user.id or event.is_redacted:
            continue
        highlights = life.rules[user.id].at(room, n).judge(user, room, event, state)
        thread = thread_of(room, event)
        if highlights is not None and n > read[user.id, room.id, thread]:
            found[thread][0] += 1
            found[thread][1] += highlights
    return {thread: tuple(count) for thread, count in found.items()}


def thread_of(room, event):
    """An event that relates to one in a thread is in it as well, over a few steps. One that was redacted before is in none."""
    relation, place = event.sent_relation, room.places[event.id]
    for _ in range(3):
        if relation.get("rel_type") == "m.thread":
            return relation["event_id"]
        parent = room.get(relation.get("event_id")) if relation.get("rel_type") else None
        relation = parent.relation_at(place) if parent else {}
    return "main"


def check_list(life, user, joined):
    """What /notifications lists as unread is what a first sync counts; `joined` are its rooms."""
    if user.ever_ignored:
        return
    for only, count in ((None, "notification_count"), ("highlight", "highlight_count")):
        listed = listed_unread(life, user, only)
        for room_id, shown in joined.items():
            if shown["unread_notifications"][count] != listed[room_id]:
                life.findings.report(f"/notifications against {count}", user=user.id, room=room_id, sync=shown["unread_notifications"],
                                     listed=listed[room_id])


def listed_unread(life, user, only):
    listed, seen, token = collections.Counter(), set(), None
    while True:
        page = user.ask("GET", "/notifications", limit=40, only=only, **({"from": token} if token else {}))[1]
        for one in page.get("notifications", []):
            if one["event"]["event_id"] in seen:
                life.findings.report("/notifications lists one twice", user=user.id, event=one["event"]["event_id"])
            seen.add(one["event"]["event_id"])
            listed[one["room_id"]] += not one["read"]
        token = page.get("next_token")
        if not token:
            return listed
