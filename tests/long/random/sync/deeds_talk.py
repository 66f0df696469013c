"""Deeds of those in a room: messages with mentions, edits, reactions, threads, redactions; receipts and typing."""
from asking import quoted
from sync.deeds import deed
from sync.deeds_rooms import at

RECENT = 40


def send(life, user, room, kind, content):
    return user.ask("PUT", f"{at(room)}/send/{kind}/t{life.number()}", content)


def place_to_talk(life, user, kind=None):
    """-> (a room the user is in, one of its newest events of a kind)."""
    rooms = life.truth.joined(user.id)
    if not rooms:
        return None, None
    room = life.rng.choice(rooms)
    events = [event for event in room.events[-RECENT:] if kind in (None, event.type)]
    return room, life.rng.choice(events) if events else None


def text(life, body, **more):
    content = {"msgtype": "m.text", "body": f"{body} {life.number()}", **more}
    if life.rng.random() < 0.3:
        content["m.mentions"] = {"user_ids": [life.rng.choice(life.users).id]} if life.rng.random() < 0.7 else {"room": True}
    return content


def related(kind, event_id, **more):
    return {"m.relates_to": {"rel_type": kind, "event_id": event_id, **more}}


@deed(16)
def says(life, user):
    room, _ = place_to_talk(life, user)
    if room:
        for _ in range(life.rng.choice([1, 1, 1, 2, 3, 12])):
            content = text(life, life.rng.choice(["hi", "hello keyword", life.rng.choice(life.users).name]))
            send(life, user, room, "m.room.message", {**content, "msgtype": life.rng.choice(["m.text", "m.text", "m.notice"])})


@deed(5)
def edits(life, user):
    room, event = place_to_talk(life, user, "m.room.message")
    if event:
        own = [one for one in room.events[-RECENT:] if one.sender == user.id and one.type == "m.room.message"]
        event = life.rng.choice(own) if own and life.rng.random() < 0.85 else event
        new = {"msgtype": "m.text", "body": f"edit {life.number()}"}
        send(life, user, room, "m.room.message", text(life, "* edit", **{"m.new_content": new}, **related("m.replace", event.id)))


@deed(4)
def reacts(life, user):
    room, event = place_to_talk(life, user)
    if event:
        send(life, user, room, "m.reaction", related("m.annotation", event.id, key=life.rng.choice("ab")))


@deed(3)
def refers(life, user):
    room, event = place_to_talk(life, user)
    if event:
        send(life, user, room, "m.room.message", {"msgtype": "m.text", "body": "see", **related("m.reference", event.id)})


@deed(6)
def replies_in_thread(life, user):
    room, event = place_to_talk(life, user, "m.room.message")
    if event:
        roots = [one.relation["event_id"] for one in room.events if one.relation.get("rel_type") == "m.thread"]
        root = life.rng.choice(roots) if roots and life.rng.random() < 0.6 else event.id
        relation = related("m.thread", root, **{"is_falling_back": True, "m.in_reply_to": {"event_id": root}})
        send(life, user, room, "m.room.message", text(life, "in thread", **relation))


@deed(5)
def redacts(life, user):
    room, event = place_to_talk(life, user)
    kinds = ("m.room.message", "m.reaction", "m.room.topic", "org.x.state")
    if event and event.type in kinds and (event.sender == user.id or life.rng.random() < 0.4):
        reason = {"reason": "why not"} if life.rng.random() < 0.3 else {}
        user.ask("PUT", f"{at(room)}/redact/{quoted(event.id)}/t{life.number()}", reason)


@deed(1)
def shows_picture(life, user):
    room, _ = place_to_talk(life, user)
    if room:
        headers = {"Authorization": f"Bearer {user.token}", "Content-Type": "image/png"}
        status, _, _ = life.line.raw("POST", "/_matrix/media/v3/upload", life.rng.randbytes(200), headers)
        if status == 200:
            send(life, user, room, "m.room.message", {"msgtype": "m.image", "body": "picture", "url": f"mxc://{life.server.name}/{life.number()}"})


def has_read(life, user, room, event, thread):
    key = user.id, room.id, thread
    life.read_upto[key] = max(life.read_upto[key], room.places[event.id])


@deed(9)
def reads(life, user):
    room, event = place_to_talk(life, user)
    if not event:
        return
    event = event if life.rng.random() < 0.6 else room.events[-1]
    if life.rng.random() < 0.25:
        marks = {kind: event.id for kind in life.rng.sample(["m.fully_read", "m.read", "m.read.private"], life.rng.randint(1, 3))}
        if user.ask("POST", at(room) + "/read_markers", marks)[0] == 200 and set(marks) - {"m.fully_read"}:
            has_read(life, user, room, event, None)
        return
    body = {}
    if life.rng.random() < 0.5:
        is_reply = event.relation.get("rel_type") == "m.thread"
        body["thread_id"] = event.relation["event_id"] if is_reply else life.rng.choice(["main", event.id])
    kind = life.rng.choice(["m.read", "m.read", "m.read.private", "m.read" if body else "m.fully_read"])
    if user.ask("POST", f"{at(room)}/receipt/{kind}/{quoted(event.id)}", body)[0] == 200 and kind != "m.fully_read":
        has_read(life, user, room, event, body.get("thread_id"))


@deed(2)
def types(life, user):
    room, _ = place_to_talk(life, user)
    if room:
        types_now = life.rng.random() < 0.6
        user.ask("PUT", f"{at(room)}/typing/{quoted(user.id)}", {"typing": types_now, **({"timeout": 120_000} if types_now else {})})
