"""Deeds about rooms: made, entered, left, upgraded; who is invited, put out, let in by membership elsewhere; their state.

Modelled beside what truth.py sees: whom the server must let into a room by its join rule (`enter`), and that it lets others not.
"""
import copy

from asking import quoted
from sync.deeds import deed
from sync.people import User

VERSIONS = ["6", "9", "10", "11", "12", "11", "10"]
VISIBILITIES = ["shared", "joined", "invited", "world_readable"]
ENCRYPTION = {"algorithm": "m.megolm.v1.aes-sha2"}


def at(room):
    return f"/rooms/{quoted(room.id)}"


def create(life, body):
    status, answer = life.witness.ask("POST", "/createRoom", body)
    if status != 200:
        life.findings.report("/createRoom refused", status=status, answer=answer, body=body)
    life.truth.update()
    return answer.get("room_id")


def restricted_to(room):
    return {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": room.id}]}


@deed(3)
def creates(life, _):
    if len(life.truth.open_rooms()) >= life.most_rooms:
        return
    rng, version = life.rng, life.rng.choice(VERSIONS)
    levels = {"users": {one.id: rng.choice([0, 50, 100]) for one in life.users if rng.random() < 0.6},
              "users_default": rng.choice([0, 50, 100, 100]), "invite": rng.choice([0, 50])}
    preset = rng.choice(["private_chat", "public_chat", "trusted_private_chat"])
    if version != "12":
        levels["users"][life.witness.id] = 100
    elif preset == "trusted_private_chat":
        levels["users"] = {}  # those invited are creators then, who have no level
    state = []
    if rng.random() < 0.4:
        state.append(("m.room.encryption", ENCRYPTION))
    if rng.random() < 0.5:
        state.append(("m.room.history_visibility", {"history_visibility": rng.choice(VISIBILITIES)}))
    if rng.random() < 0.5:
        state.append(("m.room.join_rules", join_rule(life, version)))
    body = {"preset": preset, "room_version": version, "invite": rng.sample([one.id for one in life.users], rng.randint(0, len(life.users))),
            "power_level_content_override": levels, "is_direct": rng.random() < 0.3,
            "initial_state": [{"type": kind, "state_key": "", "content": content} for kind, content in state]}
    if rng.random() < 0.15:
        body["creation_content"] = {"type": "m.space"}
    for name, value, chance in (("name", f"room {life.number()}", 0.5), ("topic", "topic", 0.3), ("room_alias_name", f"alias{life.number()}", 0.3)):
        if rng.random() < chance:
            body[name] = value
    create(life, body)


def join_rule(life, version):
    rules = [{"join_rule": "public"}, {"join_rule": "public"}, {"join_rule": "invite"}]
    if int(version) >= 7:
        rules.append({"join_rule": "knock"})
    if int(version) >= 8 and life.truth.rooms:
        rules.append(restricted_to(life.rng.choice(list(life.truth.rooms.values()))))
    return life.rng.choice(rules)


def may_enter(life, room, user):
    """Whether a user may join by the rule in force."""
    membership, rule = room.membership(user.id), room.content("m.room.join_rules")
    if membership in ("join", "invite"):
        return True
    if membership == "ban":
        return False
    allowed = {one.get("room_id") for one in rule.get("allow", [])}
    is_let_in = any(one.id in allowed for one in life.truth.joined(user.id)) and int(room.version) >= 8
    return rule.get("join_rule", "invite") == "public" or rule.get("join_rule") == "restricted" and is_let_in


def enter(life, room, user):
    may = may_enter(life, room, user)
    status, answer = user.ask("POST", at(room) + "/join", {})
    if (status == 200) != may:
        life.findings.report("who may join", room=room.id, user=user.id, status=status, answer=answer, may=may,
                             membership=room.membership(user.id), rule=room.content("m.room.join_rules"))


@deed(8)
def joins(life, user):
    enter(life, life.some_room(), user)


@deed(10)
def accepts(life, user):
    rooms = life.truth.being(user.id, "invite")
    if rooms:
        enter(life, life.rng.choice(rooms), user)


@deed(2)
def leaves(life, user):
    rooms = life.truth.being(user.id, "join", "invite", "knock")
    if rooms:
        user.ask("POST", at(life.rng.choice(rooms)) + "/leave", {})


def target(life, user, what):
    user = life.witness if life.rng.random() < 0.3 else user
    rooms = life.truth.joined(user.id)
    if rooms:
        reason = {"reason": "why not"} if life.rng.random() < 0.3 else {}
        user.ask("POST", f"{at(life.rng.choice(rooms))}/{what}", {"user_id": life.rng.choice(life.users).id, **reason})


@deed(1)
def kicks(life, user):
    target(life, user, "kick")


@deed(1)
def bans(life, user):
    target(life, user, "ban")


@deed(7)
def invites(life, user):
    target(life, user, "invite")


@deed(2)
def unbans(life, user):
    banned = [(room, one) for room in life.truth.joined(user.id) for one in life.users if room.membership(one.id) == "ban"]
    if banned:
        room, one = life.rng.choice(banned)
        user.ask("POST", at(room) + "/unban", {"user_id": one.id})


@deed(3)
def knocks(life, user):
    room = life.some_room()
    may = room.content("m.room.join_rules").get("join_rule") == "knock" and room.membership(user.id) in (None, "leave", "knock")
    status, answer = user.ask("POST", f"/knock/{quoted(room.id)}", {})
    if (status == 200) != may:
        life.findings.report("who may knock", room=room.id, user=user.id, status=status, answer=answer, may=may, membership=room.membership(user.id))


@deed(2)
def forgets(life, user):
    rooms = life.truth.being(user.id, "leave", "ban")
    if rooms:
        room = life.rng.choice(rooms)
        life.forgotten.add((user.id, room.id))
        user.ask("POST", at(room) + "/forget", {})


@deed(9)
def sets_state(life, user):
    rooms = life.truth.joined(user.id)
    if not rooms:
        return
    rng, room, n = life.rng, life.rng.choice(rooms), life.number()
    visibility = ("m.room.history_visibility", "", {"history_visibility": rng.choice(VISIBILITIES)})
    kind, key, content = rng.choice([
        ("m.room.name", "", {"name": rng.choice([f"name {n}", ""])}), ("m.room.topic", "", {"topic": f"topic {n}"}), visibility, visibility,
        ("m.room.join_rules", "", join_rule(life, room.version)), ("m.room.avatar", "", {"url": f"mxc://{life.server.name}/a{n}"}),
        ("org.x.state", rng.choice(["", "a", "b"]), {"n": n}), ("org.x.state", user.name, {"n": 0}), ("m.room.encryption", "", ENCRYPTION),
        ("m.room.guest_access", "", {"guest_access": "can_join"}), ("m.room.pinned_events", "", {"pinned": []}),
        ("m.room.server_acl", "", {"allow": ["*"], "deny": [f"x{n}.test"]})])
    user.ask("PUT", f"{at(room)}/state/{kind}/{quoted(key)}", content)


@deed(3)
def tends_space(life, _):
    """Rooms come into a space and go out of it."""
    spaces = [room for room in life.truth.open_rooms() if room.events[0].content.get("type") == "m.space"]
    if not spaces:
        create(life, {"preset": "public_chat", "creation_content": {"type": "m.space"}, "room_version": life.rng.choice(["10", "11"])})
        return
    child = life.rng.choice(list(life.truth.rooms.values()))
    content = {} if life.rng.random() < 0.25 else {"via": [life.server.name], "suggested": life.rng.random() < 0.4}
    if content and life.rng.random() < 0.4:
        content["order"] = life.rng.choice(["a", "b", "c"])
    life.witness.ask("PUT", f"{at(life.rng.choice(spaces))}/state/m.space.child/{quoted(child.id)}", content)


@deed(2)
def sets_levels(life, user):
    rooms = [room for room in life.truth.joined(user.id) if room.content("m.room.power_levels")]
    if not rooms:
        return
    room = life.rng.choice(rooms)
    levels = copy.deepcopy(room.content("m.room.power_levels"))
    if life.rng.random() < 0.7:
        levels.setdefault("users", {})[life.rng.choice(life.users).id] = life.rng.choice([0, 50, 100])
    else:
        levels["events_default"] = life.rng.choice([0, 0, 50])
    levels.setdefault("events", {})["m.room.history_visibility"] = 50
    life.rng.choice([user, life.witness]).ask("PUT", at(room) + "/state/m.room.power_levels/", levels)


@deed(2)
def names_alias(life, user):
    rooms = life.truth.joined(user.id)
    if not rooms:
        return
    room, alias = life.rng.choice(rooms), f"#name{life.number()}:{life.server.name}"
    if user.ask("PUT", f"/directory/room/{quoted(alias)}", {"room_id": room.id})[0] == 200:
        user.ask("PUT", at(room) + "/state/m.room.canonical_alias/", life.rng.choice([{"alias": alias}, {}, {"alt_aliases": [alias]}]))
        if life.rng.random() < 0.3:
            user.ask("DELETE", f"/directory/room/{quoted(alias)}")


@deed(1)
def upgrades(life, _):
    room = life.some_room()
    if len(life.truth.rooms) > 3 * life.most_rooms or life.rng.random() < 0.6:
        return
    status, answer = life.witness.ask("POST", at(room) + "/upgrade", {"new_version": life.rng.choice(["10", "11", "12"])})
    if status != 200:
        life.findings.report("/upgrade refused", room=room.id, status=status, answer=answer)
    room.is_closed = life.rng.random() < 0.5


@deed(0.6)
def lives_and_dies(life, _):
    """Somebody comes, speaks and closes their account; what they said may be erased."""
    rooms = [room for room in life.truth.open_rooms() if room.content("m.room.join_rules").get("join_rule") == "public"]
    if not rooms:
        return
    mortal, room = User(life.line, f"mortal{life.number()}"), life.rng.choice(rooms)
    mortal.ask("POST", at(room) + "/join", {})
    for _ in range(2):
        mortal.ask("PUT", f"{at(room)}/send/m.room.message/t{life.number()}", {"msgtype": "m.text", "body": "mortal"})
    status, answer = mortal.ask("POST", "/account/deactivate", {"erase": life.rng.random() < 0.7, "auth": mortal.proof})
    if status != 200:
        life.findings.report("/account/deactivate", status=status, answer=answer)
    life.settle(lambda: room.membership(mortal.id) != "join", "whoever closed their account leaves the room")
