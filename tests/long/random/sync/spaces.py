"""The tree of a space: which rooms /hierarchy shows a user, in which order, with which children.

Modelled (client-server API, "Spaces", and MSC2946): a room is shown to who is in it, invited to it or knocks at it, and where
anybody may read it; to others but the banned, where it may be joined or knocked at, or is restricted to a room they are in.
Children without `via` are none. Order: by `order`, then the time of their event, then their id; depth first. Pages are put
together; each room comes once. `suggested_only` and `max_depth` are not tried.
"""
from asking import V1, quoted

PAGES = 100


def children(room):
    """[(room id, event)] of a space, in their order."""
    found = [(key[1], event) for key, event in room.state().items() if key[0] == "m.space.child" and event.content.get("via")]
    return sorted(found, key=lambda one: ("order" not in one[1].content, one[1].content.get("order", ""), one[1].ts, one[0]))


def is_shown(life, user, room):
    membership = room.membership(user.id)
    if membership in ("join", "invite", "knock") or room.is_world_readable:
        return True
    if membership == "ban":
        return False
    rule = room.content("m.room.join_rules")
    if rule.get("join_rule") == "restricted":
        return any(room.id in {one.get("room_id") for one in rule.get("allow", [])} for room in life.truth.joined(user.id))
    return rule.get("join_rule") in ("public", "knock")


def tree(life, user, root):
    """Room ids depth first, as far as the user is shown them."""
    found, todo = [], [root.id]
    while todo:
        room = life.truth.rooms.get(todo.pop())
        if room and room.id not in found and is_shown(life, user, room):
            found.append(room.id)
            if room.events[0].content.get("type") == "m.space":
                todo += [child for child, _ in reversed(children(room))]
    return found


def check(life, user):
    for root in life.truth.rooms.values():
        if root.events[0].content.get("type") == "m.space" and is_shown(life, user, root):
            check_tree(life, user, root)


def check_tree(life, user, root):
    got, token = [], None
    for _ in range(PAGES):
        status, page = user.ask("GET", f"{V1}/rooms/{quoted(root.id)}/hierarchy", limit=life.rng.choice([1, 3, 20]), **({"from": token} if token else {}))
        if status != 200:
            life.findings.report("/hierarchy refused", user=user.id, room=root.id, status=status, answer=page)
            return
        got += page["rooms"]
        token = page.get("next_batch")
        if not token:
            break
    life.findings.count("trees")
    want = tree(life, user, root)
    if [one["room_id"] for one in got] != want:
        life.findings.report("/hierarchy", user=user.id, room=root.id, got=[one["room_id"] for one in got], want=want,
                             rules={one: (life.truth.rooms[one].content("m.room.join_rules"), life.truth.rooms[one].membership(user.id))
                                    for one in {*want, *(one["room_id"] for one in got)}})
    for one in got:
        room = life.truth.rooms[one["room_id"]]
        is_space = room.events[0].content.get("type") == "m.space"
        told = [event["state_key"] for event in one["children_state"]]
        if told != ([child for child, _ in children(room)] if is_space else []):
            life.findings.report("/hierarchy: children", user=user.id, room=room.id, got=told, want=children(room))
        members = sum(event.membership == "join" for key, event in room.state().items() if key[0] == "m.room.member")
        if one["num_joined_members"] != members:
            life.findings.report("/hierarchy: members", user=user.id, room=room.id, got=one["num_joined_members"], want=members)
