"""What can be asked about a room's state: /state, /members, /joined_members, /initialSync, the summary, joined_rooms.

Modelled for members, and for who left: they see what stood when they did. What those outside may ask is judged by /messages
alone (history.py).
"""
from asking import V1, quoted
from findings import differences


def check(life, user, room, fresh):
    """`fresh` is the room in a first sync without a filter."""
    membership = room.membership(user.id)
    status, state = user.ask("GET", f"/rooms/{quoted(room.id)}/state")
    left = room.left_at(user.id)
    if membership == "join":
        if status != 200:
            life.findings.report("/state refused", user=user.id, room=room.id, status=status)
            return
        check_member(life, user, room, state)
        check_form(life, room, state, fresh)
    elif left is not None and (user.id, room.id) not in life.forgotten and not room.is_world_readable:
        if status != 200:
            life.findings.report("/state refused to who left", user=user.id, room=room.id, status=status, membership=membership)
            return
        want = room.state_ids(left + 1)
        compare(life, "/state of who left", user, room, ids(state), want)
        status, members = user.ask("GET", f"/rooms/{quoted(room.id)}/members")
        compare(life, "/members of who left", user, room, ids(members.get("chunk", [])), of_members(want))


def check_member(life, user, room, state):
    at = f"/rooms/{quoted(room.id)}"
    want = room.state_ids()
    compare(life, "/state", user, room, ids(state), want)
    compare(life, "/members", user, room, ids(user.ask("GET", at + "/members")[1].get("chunk", [])), of_members(want))
    compare(life, "/initialSync", user, room, ids(user.ask("GET", at + "/initialSync")[1].get("state", [])), want)
    joined = {key[1]: event.content.get("displayname") for key, event in room.state().items() if key[0] == "m.room.member" and event.membership == "join"}
    told = {one: data.get("display_name") for one, data in user.ask("GET", at + "/joined_members")[1].get("joined", {}).items()}
    compare(life, "/joined_members", user, room, told, joined)
    check_members_at(life, user, room, at)
    check_summary(life, user, room, len(joined))


def check_members_at(life, user, room, at):
    """Members as of a place in history; only where nothing of that is hidden. Before its creation a room has none, and who made
    it is told."""
    if user.ever_ignored or len(life.visible[room.id, user.id]) < len(room.events):
        return
    page = user.ask("GET", at + "/messages", dir="b", limit=life.rng.randint(1, 10))[1]
    place = room.places[page["chunk"][-1]["event_id"]]
    if page.get("end") and place > 0:
        members = user.ask("GET", at + "/members", at=page["end"])[1].get("chunk", [])
        compare(life, "/members at a token", user, room, ids(members), of_members(room.state_ids(place)))


def check_summary(life, user, room, joined):
    status, got = user.ask("GET", f"{V1}/room_summary/{quoted(room.id)}")
    state = room.state()
    if status != 200 or any(event.is_redacted for event in state.values()):
        if status != 200:
            life.findings.report("room summary refused", user=user.id, room=room.id, status=status)
        return
    want = {"num_joined_members": joined, "name": room.content("m.room.name", state).get("name") or None,
            "topic": room.content("m.room.topic", state).get("topic") or None, "membership": "join",
            "join_rule": room.content("m.room.join_rules", state).get("join_rule", "invite"),
            "world_readable": room.is_world_readable,
            "encryption": room.content("m.room.encryption", state).get("algorithm")}
    compare(life, "room summary", user, room, {name: got.get(name) for name in want}, want)


def check_form(life, room, state, fresh):
    """An event of state looks the same in /state and in /sync."""
    if fresh:
        told = {event["event_id"]: bare(event) for event in state}
        for event in fresh["state"]["events"]:
            found = differences(told.get(event["event_id"], bare(event)), bare(event))
            if found:
                life.findings.report("state looks otherwise in /sync", room=room.id, event=event["event_id"], differences=found)


def bare(event):
    """An event without what differs from one way of asking to the next: its age, and where it stands."""
    def ageless(value):
        if isinstance(value, dict):
            return {name: ageless(item) for name, item in value.items() if name not in ("age", "room_id", "user_id")}
        return [ageless(item) for item in value] if isinstance(value, list) else value

    event = {"unsigned": {}, **event}
    return ageless(event)


def ids(events):
    return {(event["type"], event["state_key"]): event["event_id"] for event in events}


def of_members(state):
    return {key: event_id for key, event_id in state.items() if key[0] == "m.room.member"}


def compare(life, what, user, room, got, want):
    if got != want:
        got, want = ({str(key): value for key, value in values.items()} for values in (got, want))
        life.findings.report(what, user=user.id, room=room.id, differences=differences(got, want), membership=room.membership(user.id))


def check_joined_rooms(life, user):
    joined = sorted(user.ask("GET", "/joined_rooms")[1].get("joined_rooms", []))
    want = sorted(room.id for room in life.truth.joined(user.id))
    if joined != want:
        life.findings.report("/joined_rooms", user=user.id, got=joined, want=want)
