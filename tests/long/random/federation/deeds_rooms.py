"""Deeds in rooms: messages, edits, reactions, redactions, state; who comes, goes, is invited, put out, knocks; rooms made and
upgraded, spaces tended. An anchor, one user of each server, never leaves the core rooms, so that each stays on all servers."""
import time

from asking import quoted
from federation.deeds import asks, deed
from federation.people import via

MOST_ROOMS, RECENT = 16, 80
ENCRYPTION = {"algorithm": "m.megolm.v1.aes-sha2"}


class RoomInfo:
    def __init__(self, room_id, version, creator, rule="public", is_core=False, is_space=False):
        self.id, self.version, self.creator, self.rule, self.is_core, self.is_space = room_id, version, creator, rule, is_core, is_space
        # When a user of a site joined last.
        self.entered = {}
        # From then on most may not speak.
        self.is_replaced = False


def at(room):
    return f"/rooms/{quoted(room.id)}"


def says(life, user, room, content, kind):
    n = life.number()

    def go():
        status, answer = user.ask("PUT", f"{at(room)}/send/m.room.message/t{n}", content)
        if status == 200:
            life.said.append((room, answer["event_id"], user, kind))

    return f"{user.id} sends {kind} to {room.id}", go


@deed(6)
def message(life):
    user, room = life.some_user(), life.some_room()
    content = {"msgtype": "m.text", "body": f"text {life.number()}"}
    roots = [event for of, event, _, kind in life.said[-60:] if of is room and kind == "text"]
    if roots and life.rng.random() < 0.2:
        content["m.relates_to"] = {"rel_type": "m.thread", "event_id": life.rng.choice(roots)}
        return says(life, user, room, content, "reply")
    return says(life, user, room, content, "text")


@deed(3)
def edit(life):
    if not life.said:
        return message(life)
    room, event, user, _ = life.rng.choice(life.said[-RECENT:])
    text = f"edit {life.number()}"
    return says(life, user, room, {"msgtype": "m.text", "body": f"* {text}", "m.new_content": {"msgtype": "m.text", "body": text},
                                   "m.relates_to": {"rel_type": "m.replace", "event_id": event}}, "edit")


@deed(2)
def reaction(life):
    if not life.said:
        return message(life)
    room, event, _, _ = life.rng.choice(life.said[-RECENT:])
    relation = {"m.relates_to": {"rel_type": "m.annotation", "event_id": event, "key": "x"}}
    return asks(life.some_user().first, "PUT", f"{at(room)}/send/m.reaction/t{life.number()}", relation)


@deed(3)
def redaction(life):
    if not life.said:
        return message(life)
    room, event, user, _ = life.rng.choice(life.said[-RECENT:])
    n = life.number()

    def go():
        if user.ask("PUT", f"{at(room)}/redact/{quoted(event)}/t{n}", {})[0] == 200:
            life.redacted.add(event)

    return f"{user.id} redacts {event}", go


@deed(2)
def state(life):
    n = life.number()
    kind, content = life.rng.choice([("m.room.topic", {"topic": f"topic {n}"}), ("org.test", {"n": n}), ("m.room.name", {"name": f"name {n}"})])
    return asks(life.some_user().first, "PUT", f"{at(life.some_room())}/state/{kind}/", content)


@deed(5)
def join(life):
    user, room = life.some_user(), life.some_room()

    def go():
        # A name that changes while its user enters elsewhere may not come there; that is known, and left.
        with user.lock:
            if user.ask("POST", f"/join/{quoted(room.id)}?{via(life.sites)}", {})[0] == 200:
                room.entered[user.site] = time.monotonic()

    return f"{user.id} joins {room.id}", go


@deed(3)
def leave(life):
    user, room = life.some_user(), life.some_room()
    if user.is_anchor and room.is_core:
        return message(life)
    life.left.add((room.id, user.id))
    return asks(user.first, "POST", f"{at(room)}/leave", {})


@deed(3)
def invite(life):
    user, other, room = life.some_user(), life.some_user(), life.some_room()

    def go():
        life.unanswered.add((room.id, other.id))
        if user.ask("POST", f"{at(room)}/invite", {"user_id": other.id})[0] in (200, 403):
            life.unanswered.discard((room.id, other.id))

    return f"{user.id} invites {other.id} to {room.id}", go


@deed(3)
def put_out(life):
    user, other, room = life.some_user(), life.some_user(), life.some_room()
    if other.is_anchor and room.is_core:
        return message(life)
    return asks(user.first, "POST", f"{at(room)}/{life.rng.choice(['kick', 'kick', 'ban', 'unban', 'unban'])}", {"user_id": other.id})


@deed(2)
def knock(life):
    rooms = [room for room in life.rooms if room.rule == "knock"]
    if not rooms:
        return join(life)
    user, room = life.some_user(), life.rng.choice(rooms)

    def go():
        life.unanswered.add((room.id, user.id))
        if user.ask("POST", f"/knock/{quoted(room.id)}?{via(life.sites)}", {"reason": "let me in"})[0] in (200, 403):
            life.unanswered.discard((room.id, user.id))

    return f"{user.id} knocks at {room.id}", go


@deed(1.2)
def create(life):
    if len(life.rooms) > MOST_ROOMS:
        return join(life)
    rng, user = life.rng, life.some_user()
    rule = rng.choice(["public", "public", "invite", "knock", "restricted"])
    version = rng.choice({"restricted": ["9", "10", "11", "12", "12"], "knock": ["9", "10", "11", "12"]}.get(rule, ["6", "9", "10", "11", "12"]))
    visibility = rng.choice(["shared", "shared", "joined", "invited", "world_readable"])
    initial = [("m.room.history_visibility", {"history_visibility": visibility})]
    if rng.random() < 0.5:
        initial.append(("m.room.encryption", ENCRYPTION))
    if rule == "restricted":
        initial.append(("m.room.join_rules", {"join_rule": rule, "allow": [{"type": "m.room_membership", "room_id": life.some_room().id}]}))
    elif rule != "invite":
        initial.append(("m.room.join_rules", {"join_rule": rule}))
    is_space, others = rng.random() < 0.15, [one for one in life.users if one is not user and not one.is_closed]
    body = {"room_version": version, "initial_state": [{"type": kind, "content": content} for kind, content in initial], "name": f"room {life.number()}",
            "visibility": "public" if rng.random() < 0.4 else "private", "invite": [one.id for one in rng.sample(others, rng.randrange(3))],
            "preset": "private_chat", "power_level_content_override": {"events_default": 0, "invite": 0, "events": {"m.room.topic": 0, "org.test": 0}}}
    if is_space:
        body["creation_content"] = {"type": "m.space"}

    def go():
        with user.lock:  # as for a join
            status, answer = user.ask("POST", "/createRoom", body)
        if status == 200:
            life.rooms.append(RoomInfo(answer["room_id"], version, user, rule, is_space=is_space))
            life.unanswered |= {(answer["room_id"], guest) for guest in body["invite"]}
            for guest in body["invite"]:
                if user.ask("GET", f"/rooms/{quoted(answer['room_id'])}/state/m.room.member/{quoted(guest)}")[0] == 200:
                    life.unanswered.discard((answer["room_id"], guest))
        elif status != 503:
            life.findings.report("/createRoom", status=status, answer=answer)

    return f"{user.id} makes a room of version {version}: {rule}, {visibility}", go


@deed(0.3)
def upgrade(life):
    room, version = life.some_room(), life.rng.choice(["10", "11", "12"])
    if room.is_core or len(life.rooms) > MOST_ROOMS + 2:
        return message(life)

    def go():
        room.is_replaced = True
        with room.creator.lock:
            status, answer = room.creator.ask("POST", f"{at(room)}/upgrade", {"new_version": version})
        if status == 200:
            life.rooms.append(RoomInfo(answer["replacement_room"], version, room.creator, room.rule, is_space=room.is_space))

    return f"{room.creator.id} upgrades {room.id} to {version}", go


@deed(1.5)
def space_child(life):
    space, child = life.rng.choice([room for room in life.rooms if room.is_space]), life.some_room()
    content = {} if life.rng.random() < 0.25 else {"via": [site.name for site in life.sites]}
    return asks(space.creator.first, "PUT", f"{at(space)}/state/m.space.child/{quoted(child.id)}", content)
