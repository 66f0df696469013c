"""Rooms in the end: current state, members, invites and knocks, histories with redactions, edits and threads, spaces, lists.

Modelled: every server that is in a room has the same state, event by event and with the same content; a user is in a room for
their own server if and only if they are for the others. Of histories what several servers have must look the same; what only
one has is compared in the core rooms alone, for what the anchors did. Not held against a server: that a user is joined for
others whose own server never had the answer (it joins again if they do); an invite that the guest's server had, and the inviter's
had no answer to; an invite of somebody who joined meanwhile, which some servers saw before and do not show; a redaction in a
room that was replaced meanwhile, which then comes too late for some; events of users who were erased, which their own server
alone shows without content; a knock that the room's server had, and the guest's had no answer to; and an invite or knock turned
down while the room's server was away, which is tried once.
"""
import json

from asking import CLIENT, V1, quoted
from federation.deeds_rooms import at
from federation.people import good
from findings import differences

ONE_EVENT = json.dumps({"room": {"timeline": {"limit": 1}}})


def joined(life):
    """{user id: rooms} as each user's own server tells."""
    return {user.id: set(good(user.ask("GET", "/joined_rooms"))["joined_rooms"]) for user in life.living()}


def members_by_site(life, rooms_of, room):
    """{site: a user of it in the room}; anchors first, since they were in it from the start."""
    found = {}
    for user in sorted(life.living(), key=lambda user: not user.is_anchor):
        if room.id in rooms_of[user.id]:
            found.setdefault(user.site, user)
    return found


def state(life):
    rooms_of = joined(life)
    for room in life.rooms:
        states = {}
        for site, user in members_by_site(life, rooms_of, room).items():
            events = good(user.ask("GET", at(room) + "/state"))
            states[site] = {f"{event['type']} {event['state_key']}": [event["event_id"], event["content"]] for event in events}
        for (one, first), (other, second) in zip(states.items(), list(states.items())[1:]):
            for unlike in differences(first, second):
                yield f"state of {room.id} (version {room.version}): {one.name} and {other.name}: {unlike}"
        for user in life.living() if states else []:
            event = next(iter(states.values())).get(f"m.room.member {user.id}")
            is_in = event is not None and event[1].get("membership") == "join"
            if not is_in and room.id in rooms_of[user.id]:
                yield f"{user.id} is in {room.id} for their own server alone: {event}"
            life.findings.seen["joins that were never answered"] += is_in and room.id not in rooms_of[user.id]


def invites(life):
    rooms_of = joined(life)
    for user in life.living():
        told = good(user.ask("GET", "/sync", timeout=0, filter=ONE_EVENT)).get("rooms", {})
        for room in life.rooms:
            witness = next((one for one in life.living() if room.id in rooms_of[one.id]), None)
            if not witness:
                continue
            status, content = witness.ask("GET", f"{at(room)}/state/m.room.member/{quoted(user.id)}")
            membership = content.get("membership") if status == 200 else None
            for kind in ("invite", "knock"):
                is_told = room.id in told.get(kind, {})
                turned_down = membership == kind and (room.id, user.id) in life.left
                unheard = membership == "join" and room.id not in rooms_of[user.id]
                if is_told != (membership == kind) and not (turned_down or unheard or (room.id, user.id) in life.unanswered):
                    yield f"{kind} of {user.id} in {room.id} (version {room.version}): {witness.id} is told {membership}, their own server tells it: {is_told}"


def history(user, room):
    found, token = {}, None
    while True:
        page = good(user.ask("GET", at(room) + "/messages", dir="b", limit=100, **({"from": token} if token else {})))
        found |= {event["event_id"]: event for event in page["chunk"]}
        token = page.get("end")
        if not token:
            return found


def histories(life):
    rooms_of = joined(life)
    for room in life.rooms:
        told = [(user, history(user, room)) for user in members_by_site(life, rooms_of, room).values()]
        for event_id in set().union(*(events for _, events in told)):
            have = [(user, events[event_id]) for user, events in told if event_id in events]
            if have[0][1]["sender"] not in life.erased and not (event_id in life.redacted and room.is_replaced):
                yield from alike(room, event_id, have)
            if event_id in life.redacted and not room.is_replaced:
                whole = [user.id for user, event in have if "redacted_because" not in event.get("unsigned", {})]
                yield from (f"{event_id} in {room.id} is not redacted for {user}" for user in whole)
            event, anchors = have[0][1], {user.id for user, _ in told if user.is_anchor}
            is_invite = event["content"].get("membership") == "invite"
            is_expected = event["sender"] in anchors and event["origin_server_ts"] > life.begun_ts and not is_invite
            if room.is_core and len(have) < len(told) and is_expected:
                yield f"{event_id} ({event['type']}) in {room.id} is there for {[user.id for user, _ in have]} alone"


def alike(room, event_id, have):
    def children(event):
        relations = event.get("unsigned", {}).get("m.relations", {})
        thread = relations.get("m.thread", {})
        return [relations.get("m.replace", {}).get("event_id"), thread.get("count"), thread.get("latest_event", {}).get("event_id")]

    for what, of in (("looks", lambda event: [event["type"], event["content"], event.get("state_key")]), ("is shown with children", children)):
        if len({json.dumps(of(event), sort_keys=True) for _, event in have}) > 1:
            yield f"{event_id} in {room.id} (version {room.version}) {what} otherwise: {[(user.id, of(event)) for user, event in have]}"


def lists(life):
    for site in life.sites:
        def listed(by):
            return {room["room_id"]: room for room in good(by.ask("GET", "/publicRooms", limit=100, server=None if by.site is site else site.name))["chunk"]}

        own = listed(life.user_of(site))
        for other in life.sites:
            if other is not site:
                yield from (f"rooms of {site.name} as listed by {other.name}: {one}" for one in differences(own, listed(life.user_of(other))))
    for alias, site in life.aliases.items():
        told = [(one.name, life.user_of(one).ask("GET", f"/directory/room/{quoted(alias)}")) for one in life.sites]
        if len({(status, answer.get("room_id")) for _, (status, answer) in told}) > 1:
            yield f"{alias}: {told}"


def spaces(life):
    """What may be told to anybody is told by every server; what is for members alone is compared between members. What a server
    was told of a room that it is not in may be old."""
    rooms_of, rules = joined(life), {room.id: room for room in life.rooms}
    for space in (room for room in life.rooms if room.is_space):
        told = []
        for user in members_by_site(life, rooms_of, space).values():
            rooms = good(user.ask("GET", f"{V1}/rooms/{quoted(space.id)}/hierarchy", limit=100))["rooms"]
            children = {event["state_key"] for room in rooms[:1] for event in room["children_state"]}
            shown = {room["room_id"]: {name: value for name, value in room.items() if name != "children_state"} for room in rooms}
            told.append((user, shown))
        for (one, first), (other, second) in zip(told, told[1:]):
            for room_id in {*first, *second} & set(rules):
                both = room_id in first and room_id in second
                there = members_by_site(life, rooms_of, rules[room_id])
                if both and one.site in there and other.site in there and differences(first[room_id], second[room_id]):
                    yield f"{room_id} in {space.id} for {one.id} and {other.id}: {differences(first[room_id], second[room_id])}"
                # What lies deeper is shown to those alone who are shown what it lies in.
                is_open = room_id in children and rules[room_id].rule in ("public", "knock") and any(room_id in rooms for rooms in rooms_of.values())
                if not both and is_open and not banned(life, room_id, rooms_of, (one, other)):
                    yield f"{room_id} ({rules[room_id].rule}) in {space.id} is shown to one alone of {one.id}: {room_id in first}, {other.id}"


def banned(life, room_id, rooms_of, users):
    """Whether one of them is banned from a room, which is not shown to them then."""
    witness = next(user for user in life.living() if room_id in rooms_of[user.id])
    what = [witness.ask("GET", f"{CLIENT}/rooms/{quoted(room_id)}/state/m.room.member/{quoted(user.id)}")[1].get("membership") for user in users]
    return "ban" in what
