"""History: /messages both ways, with filters and between tokens, /event, /context, timestamps; who may see what.

Modelled: exactly the events that visibility allows and the user does not ignore, in order, whatever the size of a page; that an
event looks the same however it is asked for; what its `unsigned` says of the membership, of the state before it and of its
transaction. For who is not in the room /context and the two directions are not compared in full: where they begin differs.
"""
import json

from asking import V1, quoted
from findings import differences
from sync import relations
from sync.filters import LAZY, passes
from sync.rooms_asked import bare

PAGES = 1000
SINGLE = 6


def pages(user, room, direction, limit, criteria=None, start=None, end=None):
    """-> (status, events) of all pages."""
    found, token = [], start
    for _ in range(PAGES):
        status, page = user.ask("GET", f"/rooms/{quoted(room.id)}/messages", dir=direction, limit=limit, to=end,
                                filter=json.dumps(criteria) if criteria else None, **{"from": token})
        if status != 200:
            return status, []
        found += page["chunk"]
        token = page.get("end")
        if token is None:
            return 200, found
    user.line.findings.report("/messages without end", room=room.id, user=user.id, direction=direction)
    return 200, found


def check(life, user, room, fresh):
    findings, rng = life.findings, life.rng
    membership = room.membership(user.id)
    status, back = pages(user, room, "b", rng.choice([3, 10, 50]))
    other_status, forth = pages(user, room, "f", rng.choice([3, 10, 50]))
    if status != other_status:
        findings.report("/messages: one way is refused", user=user.id, room=room.id, b=status, f=other_status)
    if status != 200:
        if membership == "join" or room.is_world_readable:
            findings.report("/messages refused", user=user.id, room=room.id, status=status, membership=membership)
        return
    seen = [event for event in life.visible[room.id, user.id] if not event.is_from(user.ignored)]
    want = [event.id for event in seen]
    for direction, got in (("b", [event["event_id"] for event in back][::-1]), ("f", [event["event_id"] for event in forth])):
        if got != want and (direction == "f" or membership == "join"):
            findings.report(f"/messages {direction}", user=user.id, room=room.id, membership=membership, own=room.memberships(user.id),
                            missing=[(one, room.places[one]) for one in want if one not in got][:5],
                            beyond=[(one, room.places.get(one)) for one in got if one not in want][:5])
    life.findings.count("histories")
    for event in rng.sample(room.events, min(SINGLE, len(room.events))):
        check_single(life, user, room, event, want, back)
    if membership == "join":
        check_filtered(life, user, room, seen)
        check_unsigned(life, user, room, back)
        check_lazy(life, user, room)
        check_timestamp(life, user, room, seen)
        relations.check(life, user, room, seen, back)
        check_form(findings, room, back, fresh["timeline"]["events"] if fresh else [])


def check_filtered(life, user, room, seen):
    """Pages of what a filter lets pass, both ways, and no further than to a token."""
    someone = life.rng.choice(life.users).id
    criteria = life.rng.choice([{"types": ["m.room.message"]}, {"not_types": ["m.room.m*"]}, {"senders": [someone]}, {"not_senders": [someone]},
                                {"types": ["m.room.*"], "not_types": ["m.room.message"], "not_senders": [someone]}, {"not_rooms": [room.id]}])
    want = [event.id for event in seen if passes(criteria, event.type, event.sender, room.id)]
    for direction in "bf":
        got = [event["event_id"] for event in pages(user, room, direction, life.rng.choice([1, 4, 20]), criteria)[1]]
        if got != (want if direction == "f" else want[::-1]):
            life.findings.report("/messages with a filter", user=user.id, room=room.id, criteria=criteria, direction=direction,
                                 missing=[one for one in want if one not in got][:5], beyond=[one for one in got if one not in want][:5])
    status, page = user.ask("GET", f"/rooms/{quoted(room.id)}/messages", dir="b", limit=life.rng.randint(1, 12))
    if status == 200 and page.get("end"):
        newer = [event["event_id"] for event in page["chunk"]]
        got = [event["event_id"] for event in pages(user, room, "b", 5, end=page["end"])[1]]
        if got != newer:
            life.findings.report("/messages up to a token", user=user.id, room=room.id, got=got, want=newer)


def check_single(life, user, room, event, want, back):
    findings, at, is_seen = life.findings, f"/rooms/{quoted(room.id)}", event.id in want
    status, alone = user.ask("GET", f"{at}/event/{quoted(event.id)}")
    context_status, context = user.ask("GET", f"{at}/context/{quoted(event.id)}", limit=6)
    if (status == 200, context_status == 200) != (is_seen, is_seen):
        findings.report("who may see an event", user=user.id, room=room.id, event=event.id, place=room.places[event.id], event_status=status,
                        context_status=context_status, may_see=is_seen, own=room.memberships(user.id))
    if status != 200 or context_status != 200:
        return
    listed = next((one for one in back if one["event_id"] == event.id), alone)
    for name, one in (("/context", context["event"]), ("/messages", listed)):
        found = differences(bare(alone), bare(one))
        if found:
            findings.report(f"an event looks otherwise in {name}", user=user.id, room=room.id, event=event.id, differences=found)
    if room.membership(user.id) == "join" and is_seen:
        check_context(life, user, room, context, want, want.index(event.id))


def check_context(life, user, room, context, want, place):
    got = [one["event_id"] for one in [*context["events_before"][::-1], context["event"], *context["events_after"]]]
    if got != want[max(0, place - 3):place + 4]:
        life.findings.report("/context", user=user.id, room=room.id, got=got, want=want[max(0, place - 3):place + 4])
        return
    first, last = want.index(got[0]), want.index(got[-1])
    for direction, token, expected in (("b", "start", want[max(0, first - 4):first][::-1]), ("f", "end", want[last + 1:last + 5])):
        page = user.ask("GET", f"/rooms/{quoted(room.id)}/messages", dir=direction, limit=4, **{"from": context[token]})[1]
        beyond = [one["event_id"] for one in page.get("chunk", [])]
        if beyond != expected:
            life.findings.report(f"/messages from /context's {token}", user=user.id, room=room.id, got=beyond, want=expected)
    state = {(one["type"], one["state_key"]): one["event_id"] for one in context["state"]}
    expected = room.state_ids(room.places[got[-1]] + 1)
    if state != expected:
        life.findings.report("/context: state", user=user.id, room=room.id, wrong=[key for key in expected if state.get(key) != expected[key]])


def check_unsigned(life, user, room, back):
    is_whole = len(life.visible[room.id, user.id]) == len(room.events)
    before = {}
    replaced = {}
    for event in room.events:
        if event.is_state:
            replaced[event.id] = before.get(event.key)
            before[event.key] = event
    for shown in back:
        event, unsigned = room.get(shown["event_id"]), shown.get("unsigned", {})
        mine = [what for n, what in room.memberships(user.id) if n <= room.places[event.id]]
        checks = {"membership": (unsigned.get("membership"), mine[-1] if mine else "leave"),
                  "redacted_because": ("redacted_because" in unsigned, event.is_redacted)}
        old = replaced.get(event.id)
        if is_whole and event.is_state:
            checks["replaces_state"] = (unsigned.get("replaces_state"), old and old.id)
            # A redaction takes content away, and with a closed account names go.
            if old and not old.is_redacted and not any("mortal" in text for text in (event.sender, event.key[1])):
                checks["prev_content"] = (unsigned.get("prev_content"), old.content)
        if shown["sender"] != user.id:
            checks["transaction_id of another"] = ("transaction_id" in unsigned, False)
        elif event.type in ("m.room.message", "m.reaction") and not event.is_state and not event.is_redacted:
            checks["transaction_id"] = ("transaction_id" in unsigned, True)
        for name, (got, want) in checks.items():
            if got != want:
                life.findings.report(f"unsigned: {name}", user=user.id, room=room.id, event=event.id, type=event.type, got=got, want=want)


def check_lazy(life, user, room):
    """With lazily loaded members, who sends what is shown is told with it; the first member event follows the first event."""
    at, wanted = f"/rooms/{quoted(room.id)}", json.dumps(LAZY)
    page = user.ask("GET", at + "/messages", dir=life.rng.choice("bf"), limit=12, filter=wanted)[1]
    event = life.rng.choice(room.events[6:] or room.events)
    context = user.ask("GET", f"{at}/context/{quoted(event.id)}", limit=6, filter=wanted)[1]
    around = [*context.get("events_before", []), *context.get("events_after", []), context["event"]] if "event" in context else []
    for name, events, state in (("/messages", page["chunk"], page.get("state", [])), ("/context", around, context.get("state", []))):
        unknown = {one["sender"] for one in events} - {one["state_key"] for one in state if one["type"] == "m.room.member"}
        if unknown and not any(one["type"] == "m.room.create" for one in events):
            life.findings.report(f"{name}, lazy: a sender is not known", user=user.id, room=room.id, users=sorted(unknown))


def check_timestamp(life, user, room, seen):
    ts = life.rng.choice(room.events).ts + life.rng.choice([-1, 0, 1])
    direction = life.rng.choice("bf")
    status, got = user.ask("GET", f"{V1}/rooms/{quoted(room.id)}/timestamp_to_event", ts=ts, dir=direction)
    times = [event.ts for event in seen if (event.ts >= ts if direction == "f" else event.ts <= ts)]
    want = (min if direction == "f" else max)(times, default=None)
    if (got.get("origin_server_ts") if status == 200 else None) != want:
        life.findings.report("timestamp_to_event", user=user.id, room=room.id, ts=ts, direction=direction, status=status, got=got, want=want)


def check_form(findings, room, back, timeline):
    listed = {event["event_id"]: bare(event) for event in back}
    for event in timeline:
        found = differences(listed.get(event["event_id"], {}), bare(event))
        if found:
            findings.report("an event looks otherwise in /sync", room=room.id, event=event["event_id"], differences=found)
