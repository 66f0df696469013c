"""Scenarios: getting into rooms of another server, and out of them."""
import time

from client import Failed, User, quoted, until
from plan import check, same, scenario

SHOWN = [("m.room.name", ""), ("m.room.join_rules", "")]


@scenario("join by alias")
def join_by_alias(w):
    alice, bob = w.pair()
    local = f"door{w.version}-{alice.id.split(':')[0][1:]}"
    room = w.room(alice, preset="public_chat", room_alias_name=local)
    alias = f"#{local}:{w.here.name}"
    same(bob.get(f"v3/directory/room/{quoted(alias)}")["room_id"], room, "room of the alias")
    same(bob.joins(alias), room, "room joined")
    alice.sees_membership(room, bob, "join")
    w.both_hear(alice, bob, room, "alias")
    w.agree(alice, bob, room)


@scenario("aliases of both servers for a room")
def aliases_of_both(w):
    alice, bob, room = w.shared()
    local = f"both{w.version}-{alice.id.split(':')[0][1:]}"
    first, second = f"#{local}:{w.here.name}", f"#other-{local}:{w.there.name}"
    for user, alias, asker in ((alice, first, bob), (bob, second, alice)):
        user.put(f"v3/directory/room/{quoted(alias)}", {"room_id": room})
        found = asker.get(f"v3/directory/room/{quoted(alias)}")
        same(found["room_id"], room, f"room of an alias of {user.server.kind}")
        check(user.server.name in found["servers"], f"servers of an alias of {user.server.kind}: {found['servers']}")
    alice.sets(room, "m.room.canonical_alias", {"alias": first, "alt_aliases": [second]})
    bob.sees(lambda: (bob.reads(room, "m.room.canonical_alias") or {}).get("alt_aliases") == [second], "the second alias as a name of the room")
    w.agree(alice, bob, room)


@scenario("an alias that is not there", versioned=False)
def no_such_alias(w):
    bob = User(w.there, "bob")
    alias = quoted(f"#none-{bob.id.split(':')[0][1:]}:{w.here.name}")
    bob.refused(404, "GET", f"/_matrix/client/v3/directory/room/{alias}")
    bob.refused(404, "POST", f"/_matrix/client/v3/join/{alias}", {})


@scenario("join by id with via")
def join_by_id(w):
    alice, bob = w.pair()
    room = w.room(alice, preset="public_chat", name="by id", topic="seen from afar")
    alice.says(room, "before")
    same(bob.joins(room, w.here.name), room, "room joined")
    bob.is_in(room, "join")
    same(bob.reads(room, "m.room.name"), {"name": "by id"}, "name")
    same((bob.reads(room, "m.room.create") or {}).get("room_version"), w.version, "version")
    alice.sees_membership(room, bob, "join")
    carol = User(w.there, "carol")
    carol.joins(room)  # their server is in it now
    alice.sees_membership(room, carol, "join")
    w.both_hear(alice, bob, room, "id")
    members = {one["state_key"] for one in bob.get(bob.room(room, "members"))["chunk"]}
    same(members, {alice.id, bob.id, carol.id}, "members")
    w.agree(alice, bob, room)


@scenario("invite: accept")
def invite_accept(w):
    alice, bob = w.pair()
    room = w.room(alice, preset="private_chat", name="private", is_direct=True)
    bob.may_not_join(room, w.here.name)
    alice.does("invite", room, bob, reason="come in")
    bob.is_in(room, "invite")
    shown = bob.rooms[room].stripped
    for key in SHOWN:
        check(key in shown, f"the invite does not show {key[0]}")
    same(shown["m.room.name", ""], {"name": "private"}, "name in the invite")
    same(shown["m.room.member", bob.id]["membership"], "invite", "membership in the invite")
    bob.joins(room)
    alice.sees_membership(room, bob, "join")
    w.both_hear(alice, bob, room, "invited")
    w.agree(alice, bob, room)
    # Invited in createRoom, and a second one of the same server.
    carol = User(w.there, "carol")
    other = w.room(alice, preset="trusted_private_chat", invite=[carol.id])
    carol.is_in(other, "invite")
    carol.joins(other, w.here.name)
    alice.sees_membership(other, carol, "join")
    alice.does("invite", room, carol)
    carol.is_in(room, "invite")
    # Shown to her by her server at once, but in the room only when it comes there. It is asked of the room's state: Synapse
    # keeps such an event at the place of the invitation, which bob's sync is past.
    until(lambda: bob.membership(room, carol) == "invite", "the invite in the room's state", 30)
    carol.joins(room)
    alice.sees_membership(room, carol, "join")


@scenario("invite: reject")
def invite_reject(w):
    alice, bob = w.pair()
    room = w.room(alice, preset="private_chat", name="no thanks")
    for _ in range(2):
        alice.does("invite", room, bob)
        bob.is_in(room, "invite")
        bob.leaves(room)
        alice.sees_membership(room, bob, "leave")
        bob.is_in(room, "leave")
    bob.may_not_join(room, w.here.name)
    alice.does("invite", room, bob)
    bob.is_in(room, "invite")
    bob.joins(room)
    alice.sees_membership(room, bob, "join")
    w.both_hear(alice, bob, room, "at last")


@scenario("invite: take back")
def invite_taken_back(w):
    alice, bob = w.pair()
    room = w.room(alice, preset="private_chat", name="by mistake")
    alice.does("invite", room, bob)
    bob.is_in(room, "invite")
    alice.does("kick", room, bob)
    bob.is_in(room, "leave")
    bob.may_not_join(room, w.here.name)
    alice.does("invite", room, bob)
    bob.is_in(room, "invite")
    bob.joins(room)
    alice.sees_membership(room, bob, "join")
    w.both_hear(alice, bob, room, "after all")


def door(w, alice):
    return w.room(alice, preset="private_chat", name="knock first", initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}])


def knocks(w, user, room, reason=None):
    user.post(f"v3/knock/{quoted(room)}?via={w.here.name}&server_name={w.here.name}", {"reason": reason} if reason else {})


@scenario("knock: let in", since=7)
def knock(w):
    alice, bob = w.pair()
    room = door(w, alice)
    bob.may_not_join(room, w.here.name)
    knocks(w, bob, room, "it is cold")
    alice.sees_membership(room, bob, "knock")
    same(alice.reads(room, "m.room.member", bob.id).get("reason"), "it is cold", "reason")
    bob.is_in(room, "knock")
    check(("m.room.name", "") in bob.rooms[room].stripped, "the knock does not show the room's name")
    alice.does("invite", room, bob)
    bob.is_in(room, "invite")
    bob.joins(room)
    alice.sees_membership(room, bob, "join")
    w.both_hear(alice, bob, room, "knocked")
    w.agree(alice, bob, room)


@scenario("knock: take back", since=7)
def knock_taken_back(w):
    alice, bob = w.pair()
    room = door(w, alice)
    knocks(w, bob, room)
    alice.sees_membership(room, bob, "knock")
    bob.is_in(room, "knock")
    bob.leaves(room)
    bob.is_in(room, "leave")
    alice.sees_membership(room, bob, "leave")
    knocks(w, bob, room, "again")
    alice.sees_membership(room, bob, "knock")


@scenario("knock: refuse", since=7)
def knock_refused(w):
    alice, bob = w.pair()
    room = door(w, alice)
    knocks(w, bob, room)
    alice.sees_membership(room, bob, "knock")
    bob.is_in(room, "knock")
    alice.does("kick", room, bob, reason="not now")
    bob.is_in(room, "leave")
    knocks(w, bob, room)
    alice.sees_membership(room, bob, "knock")


def space_of(w, user, **body):
    return user.creates(w.version, preset="public_chat", creation_content={"type": "m.space"}, **body)


def rule_for(space, rule="restricted"):
    return {"type": "m.room.join_rules", "content": {"join_rule": rule, "allow": [{"type": "m.room_membership", "room_id": space}]}}


@scenario("restricted join", since=8)
def restricted(w):
    alice, bob = w.pair()
    # A server may forget for a moment what it found out about a space, so who is refused is another user.
    stranger = User(w.there, "stranger")
    space = space_of(w, alice)
    room = w.room(alice, preset="private_chat", initial_state=[rule_for(space)])
    stranger.may_not_join(room, w.here.name)
    bob.joins(space, w.here.name)
    alice.sees_membership(space, bob, "join")
    bob.joins(room, w.here.name)
    alice.sees_membership(room, bob, "join")
    w.both_hear(alice, bob, room, "restricted")
    w.agree(alice, bob, room)


@scenario("restricted join: only the other server can vouch", since=8)
def restricted_vouched(w):
    alice, bob = w.pair()
    space = space_of(w, alice)
    room = w.room(alice, preset="private_chat", initial_state=[rule_for(space)])
    bob.joins(space, w.here.name)
    bob.joins(room, w.here.name)
    alice.sees_membership(room, bob, "join")
    # Bob's server is in the room now, but nobody there may invite: whoever may is asked.
    alice.sets(room, "m.room.power_levels", {**alice.reads(room, "m.room.power_levels"), "invite": 50})
    w.agree(alice, bob, room)
    carol = User(w.there, "carol")
    carol.joins(space)
    alice.sees_membership(space, carol, "join")
    carol.joins(room, w.here.name)
    alice.sees_membership(room, carol, "join")
    content = alice.reads(room, "m.room.member", carol.id)
    same(content.get("join_authorised_via_users_server"), alice.id, "who vouched")
    w.agree(alice, bob, room)


@scenario("knock_restricted: join", since=10)
def knock_restricted_join(w):
    alice, bob = w.pair()
    stranger = User(w.there, "stranger")
    space = space_of(w, alice)
    room = w.room(alice, preset="private_chat", initial_state=[rule_for(space, "knock_restricted")])
    stranger.may_not_join(room, w.here.name)
    bob.joins(space, w.here.name)
    alice.sees_membership(space, bob, "join")
    bob.joins(room, w.here.name)
    alice.sees_membership(room, bob, "join")
    w.both_hear(alice, bob, room, "member")


@scenario("knock_restricted: knock", since=10)
def knock_restricted_knock(w):
    alice, bob = w.pair()
    room = w.room(alice, preset="private_chat", initial_state=[rule_for(space_of(w, alice), "knock_restricted")])
    knocks(w, bob, room)
    alice.sees_membership(room, bob, "knock")
    alice.does("invite", room, bob)
    bob.is_in(room, "invite")
    bob.joins(room)
    w.both_hear(alice, bob, room, "stranger")


@scenario("spaces: hierarchy", since=8)
def hierarchy(w):
    alice, bob = w.pair()
    space = space_of(w, alice, name="space")
    near = w.room(alice, preset="public_chat", name="near", topic="here")
    hidden = w.room(alice, preset="private_chat", name="hidden")
    members_only = w.room(alice, preset="private_chat", name="members", initial_state=[rule_for(space)])
    far = bob.creates(w.version, preset="public_chat", name="far")
    for room, server in ((near, w.here), (hidden, w.here), (members_only, w.here), (far, w.there)):
        alice.sets(space, "m.space.child", {"via": [server.name]}, key=room)

    def names(user):
        return {one.get("name") for one in user.get(f"v1/rooms/{quoted(space)}/hierarchy")["rooms"]}

    def shows(user, wanted):
        until(lambda: names(user) == wanted, f"hierarchy of {', '.join(sorted(wanted))} on {user.server.kind}")

    try:
        shows(alice, {"space", "near", "hidden", "members", "far"})
    except Failed as failed:
        raise Failed(f"{failed}; it is {sorted(map(str, names(alice)))}") from failed
    bob.joins(space, w.here.name)
    bob.is_in(space, "join")
    try:
        shows(bob, {"space", "near", "members", "far"})
    except Failed as failed:
        raise Failed(f"{failed}; it is {sorted(map(str, names(bob)))}") from failed
    found = {one.get("name"): one for one in bob.get(f"v1/rooms/{quoted(space)}/hierarchy")["rooms"]}
    same(found["near"].get("topic"), "here", "topic of a room elsewhere")
    same(found["space"].get("room_type"), "m.space", "type of the space")
    check(len(found["space"]["children_state"]) == 4, "children of the space")


@scenario("leave and come back")
def leave_and_return(w):
    alice, bob, room = w.shared()
    w.both_hear(alice, bob, room, "first")
    bob.leaves(room)
    alice.sees_membership(room, bob, "leave")
    bob.is_in(room, "leave")
    alice.says(room, "while away")
    alice.sets(room, "m.room.topic", {"topic": "new"})
    bob.joins(room, w.here.name)
    alice.sees_membership(room, bob, "join")
    bob.is_in(room, "join")
    same(bob.reads(room, "m.room.topic"), {"topic": "new"}, "topic on coming back")
    w.both_hear(alice, bob, room, "again")
    w.agree(alice, bob, room)
    # And the maker leaves; the other server has the room alone, and lets the maker in again.
    alice.leaves(room)
    bob.sees_membership(room, alice, "leave")
    bob.says(room, "alone")
    alice.joins(room, w.there.name)
    bob.sees_membership(room, alice, "join")
    w.both_hear(alice, bob, room, "third")
    w.agree(alice, bob, room)


@scenario("kick, ban, unban, moderators elsewhere")
def moderation(w):
    alice, bob, room = w.shared()
    alice.does("kick", room, bob, reason="out")
    bob.is_in(room, "leave")
    bob.joins(room, w.here.name)
    bob.is_in(room, "join")
    alice.sees_membership(room, bob, "join")
    alice.does("ban", room, bob)
    bob.sees(lambda: bob.rooms[room].membership == "leave", "the room as left")
    bob.may_not_join(room, w.here.name)
    alice.does("unban", room, bob)

    def joined():
        status, _ = bob.ask("POST", f"/_matrix/client/v3/join/{quoted(room)}?via={w.here.name}&server_name={w.here.name}", {})
        return status == 200

    until(joined, "join after the ban")
    alice.sees_membership(room, bob, "join")
    # The other side moderates.
    levels = alice.reads(room, "m.room.power_levels")
    levels["users"] = {**levels.get("users", {}), bob.id: 60}
    alice.sets(room, "m.room.power_levels", levels)
    w.agree(alice, bob, room)
    mallory = User(w.here, "mallory")
    mallory.joins(room)
    bob.sees_membership(room, mallory, "join")
    bob.does("ban", room, mallory, reason="spam")
    mallory.sees(lambda: mallory.rooms[room].membership == "leave", "the ban")
    status, answer = mallory.ask("POST", f"/_matrix/client/v3/join/{quoted(room)}", {})
    same(status, 403, f"join of who is banned by the other server ({answer})")
    bob.sets(room, "m.room.topic", {"topic": "moderated"})
    alice.sees(lambda: alice.reads(room, "m.room.topic") == {"topic": "moderated"}, "the other moderator's topic")
    w.agree(alice, bob, room)


@scenario("room upgrade")
def upgrade(w):
    alice, bob, room = w.shared(name="old")
    target = "12" if w.version != "12" else "11"
    if target not in w.here.versions or target not in w.there.versions:
        target = "10"
    new = alice.post(alice.room(room, "upgrade"), {"new_version": target})["replacement_room"]
    bob.sees(lambda: (bob.reads(room, "m.room.tombstone") or {}).get("replacement_room") == new, "the tombstone")
    bob.joins(new, w.here.name)
    alice.sees_membership(new, bob, "join")
    same((bob.reads(new, "m.room.create") or {}).get("predecessor", {}).get("room_id"), room, "predecessor")
    same(bob.reads(new, "m.room.name"), {"name": "old"}, "name")
    w.both_hear(alice, bob, new, "new room")
    w.agree(alice, bob, new)


@scenario("server ACL")
def acl(w):
    alice, bob, room = w.shared()
    w.both_hear(alice, bob, room, "before")
    # That addresses may be names is said, although it is the default: Dendrite takes silence for the opposite (roomserver/acls/acls.go).
    rules = {"allow": ["*"], "allow_ip_literals": True}
    alice.sets(room, "m.room.server_acl", {**rules, "deny": [w.there.address, w.there.name]})
    bob.sees(lambda: bob.reads(room, "m.room.server_acl"), "the ACL")
    status, _ = bob.ask("PUT", f"/_matrix/client/{bob.room(room, 'send/m.room.message/acl')}", {"msgtype": "m.text", "body": "shut out"})
    time_end = time.monotonic() + 3  # nothing can show that something will never come; other rooms prove that the way is open
    other_alice, other_bob, other = w.shared()
    w.both_hear(other_alice, other_bob, other, "other room")
    alice.sync()
    while time.monotonic() < time_end:
        alice.sync(500)
    check("shut out" not in alice.bodies(room), f"a message of a server that is shut out came ({status})")
    alice.sets(room, "m.room.server_acl", {**rules, "deny": []})
    bob.sees(lambda: (bob.reads(room, "m.room.server_acl") or {}).get("deny") == [], "the new ACL", 45)
    bob.says(room, "let in again")
    alice.hears(room, "let in again", seconds=45)
