"""Scenarios: what is said in rooms, and what goes beside them: typing, receipts, presence, profiles, media, directories."""
import struct
import zlib

from client import User, quoted, until
from plan import check, same, scenario


@scenario("messages, edits, reactions")
def messages(w):
    alice, bob, room = w.shared()
    texts = [f"{user.server.kind} says {n}" for n in range(5) for user in (alice, bob)]
    for n, text in enumerate(texts):
        (alice, bob)[n % 2].says(room, text)
    for user in (alice, bob):
        user.hears(room, *texts)
    for writer, reader in ((alice, bob), (bob, alice)):
        kind = writer.server.kind
        first = writer.says(room, f"first wording of {kind}")
        reader.hears(room, f"first wording of {kind}")
        writer.sends(room, "m.room.message", {"msgtype": "m.text", "body": f"* second of {kind}", "m.new_content": {"msgtype": "m.text", "body": "second"},
                                              "m.relates_to": {"rel_type": "m.replace", "event_id": first}})
        reader.hears(room, f"* second of {kind}")
        reply = reader.sends(room, "m.reaction", {"m.relates_to": {"rel_type": "m.annotation", "event_id": first, "key": "👍"}})
        thread = reader.sends(room, "m.room.message", {"msgtype": "m.text", "body": f"in a thread of {kind}",
                                                       "m.relates_to": {"rel_type": "m.thread", "event_id": first}})
        writer.hears(room, f"in a thread of {kind}")
        related = writer.get(f"v1/rooms/{quoted(room)}/relations/{quoted(first)}")["chunk"]
        check({reply, thread} <= {one["event_id"] for one in related}, f"relations on {writer.server.kind}: {[one['type'] for one in related]}")
        bundle = reader.event(room, first).get("unsigned", {}).get("m.relations", {})
        if reader.server.kind != "Dendrite":
            check("m.replace" in bundle, f"no bundled edit on {reader.server.kind}: {bundle}")
    w.agree(alice, bob, room)


@scenario("redactions")
def redactions(w):
    alice, bob, room = w.shared()

    def redacts(said, txn, **body):
        alice.put(alice.room(room, f"redact/{quoted(said)}/{txn}"), body)

    gone = alice.says(room, "a slip")
    bob.hears(room, "a slip")
    redacts(gone, "own", reason="slip")
    # A moderator redacts what another server's user said.
    rude = bob.says(room, "rude")
    alice.hears(room, "rude")
    redacts(rude, "moderator")
    for user in (alice, bob):
        for said in (gone, rude):
            until(lambda u=user, s=said: u.event(room, s)["content"] == {}, f"redaction on {user.server.kind}")
            check("redacted_because" in user.event(room, said).get("unsigned", {}), f"no redacted_because on {user.server.kind}")
    # Who is no moderator may not, by neither server.
    mine = alice.says(room, "mine")
    bob.hears(room, "mine")
    bob.refused(403, "PUT", f"/_matrix/client/{bob.room(room, f'redact/{quoted(mine)}/x')}", {})
    w.agree(alice, bob, room)


@scenario("history visibility")
def visibility(w):
    alice, bob = w.pair()
    room = w.room(alice, preset="public_chat", initial_state=[{"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}])
    secret = alice.says(room, "not for later ones")
    bob.joins(room, w.here.name)
    alice.sees_membership(room, bob, "join")
    w.both_hear(alice, bob, room, "visible")
    texts = [one["content"].get("body") for one in bob.history(room)]
    check("not for later ones" not in texts, "history of before the join is shown")
    status, answer = bob.ask("GET", f"/_matrix/client/{bob.room(room, f'event/{quoted(secret)}')}")
    check(status in (403, 404) or "body" not in answer.get("content", {}), f"an event of before the join is shown ({status})")


@scenario("typing, receipts, presence", versioned=False)
def ephemeral(w):
    alice, bob, room = w.shared()
    for writer, reader in ((alice, bob), (bob, alice)):
        typing = writer.room(room, f"typing/{quoted(writer.id)}")
        writer.put(typing, {"typing": True, "timeout": 20000})
        reader.sees(lambda r=reader, u=writer.id: u in r.rooms[room].typing, f"typing of a user of {writer.server.kind}")
        writer.put(typing, {"typing": False})
        reader.sees(lambda r=reader, u=writer.id: u not in r.rooms[room].typing, f"the end of typing on {writer.server.kind}")
        said = reader.says(room, f"read this, {writer.server.kind}")
        writer.hears(room, f"read this, {writer.server.kind}")
        writer.post(writer.room(room, f"receipt/m.read/{quoted(said)}"), {})
        reader.sees(lambda r=reader, u=writer.id, e=said: r.rooms[room].receipts.get(("m.read", u)) == e, f"a receipt of a user of {writer.server.kind}")
        private = reader.says(room, f"privately, {writer.server.kind}")
        writer.hears(room, f"privately, {writer.server.kind}")
        writer.post(writer.room(room, f"receipt/m.read.private/{quoted(private)}"), {})
        writer.put(f"v3/presence/{quoted(writer.id)}/status", {"presence": "online", "status_msg": f"at work on {writer.server.kind}"})
        writer.sync()
        reader.sees(lambda r=reader, u=writer: r.presence.get(u.id, {}).get("status_msg") == f"at work on {u.server.kind}",
                    f"presence of a user of {writer.server.kind}")
        check(("m.read.private", writer.id) not in reader.rooms[room].receipts, "a private receipt came")


@scenario("profiles", versioned=False)
def profiles(w):
    alice, bob, room = w.shared()
    for one, other in ((alice, bob), (bob, alice)):
        one.put(f"v3/profile/{quoted(one.id)}/displayname", {"displayname": f"Name on {one.server.kind}"})
        avatar = f"mxc://{one.server.name}/avatar"
        one.put(f"v3/profile/{quoted(one.id)}/avatar_url", {"avatar_url": avatar})
        got = other.get(f"v3/profile/{quoted(one.id)}")
        same((got.get("displayname"), got.get("avatar_url")), (f"Name on {one.server.kind}", avatar), "profile over federation")
        same(other.get(f"v3/profile/{quoted(one.id)}/displayname").get("displayname"), f"Name on {one.server.kind}", "name over federation")
        other.sees(lambda o=other, u=one: (o.reads(room, "m.room.member", u.id) or {}).get("displayname") == f"Name on {u.server.kind}", "the new name in the room")
        other.refused(404, "GET", f"/_matrix/client/v3/profile/{quoted(f'@nobody:{one.server.name}')}")


def picture(width, height):
    """A PNG of one colour with a gradient."""
    rows = b"".join(b"\0" + bytes(value for x in range(width) for value in (x * 255 // width, y * 255 // height, 128)) for y in range(height))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def uploads(user, png):
    """-> the media's `server/id`."""
    status, _, raw = user.raw("POST", "/_matrix/media/v3/upload?filename=red%20square.png", png, {"Content-Type": "image/png"})
    check(status == 200, f"upload to {user.server.kind}: {status} {raw[:200]}")
    return raw.decode().split("mxc://")[1].split('"')[0]


@scenario("media and thumbnails", versioned=False)
def media(w):
    alice, bob = w.pair()
    png = picture(320, 200)
    name = uploads(alice, png)
    status, headers, got = bob.raw("GET", f"/_matrix/client/v1/media/download/{name}")
    check(status == 200 and got == png, f"download through {w.there.kind}: {status}, {len(got)} bytes {got[:120] if status != 200 else ''}")
    check(headers["Content-Type"].startswith("image/png"), f"type through {w.there.kind}: {headers['Content-Type']}")
    status, headers, got = bob.raw("GET", f"/_matrix/client/v1/media/thumbnail/{name}?width=64&height=48&method=scale")
    check(status == 200 and 0 < len(got) < len(png) * 4 and headers["Content-Type"].startswith("image/"), f"thumbnail through {w.there.kind}: {status} {got[:120]}")
    status, _, got = bob.raw("GET", f"/_matrix/client/v1/media/download/{w.here.name}/none-such")
    check(status == 404, f"missing media through {w.there.kind}: {status} {got[:120]}")


@scenario("media: the name of a file", versioned=False)
def media_name(w):
    alice, bob = w.pair()
    name = uploads(alice, picture(32, 32))
    for user in (alice, bob):
        _, headers, _ = user.raw("GET", f"/_matrix/client/v1/media/download/{name}")
        check("red square.png" in (headers["Content-Disposition"] or "").replace("%20", " "), f"name through {user.server.kind}: {headers['Content-Disposition']}")


@scenario("public rooms of the other server", versioned=False)
def public_rooms(w):
    alice, bob = w.pair()
    name = f"listed {alice.id}"
    room = w.room(alice, preset="public_chat", visibility="public", name=name, topic="find me")
    found = until(lambda: [one for one in bob.get("v3/publicRooms", server=w.here.name, limit=100)["chunk"] if one["room_id"] == room], "the room in the list")[0]
    same((found.get("name"), found.get("topic"), found["num_joined_members"]), (name, "find me", 1), "the room in the list")
    searched = bob.post(f"v3/publicRooms?server={w.here.name}", {"filter": {"generic_search_term": name}, "limit": 10})["chunk"]
    same([one["room_id"] for one in searched], [room], "rooms found")
    bob.joins(found.get("canonical_alias") or room, w.here.name)
    alice.sees_membership(room, bob, "join")


@scenario("openid", versioned=False)
def openid(w):
    secure = w.context
    for server in (w.here, w.there):
        user = User(server, "openid")
        token = user.post(f"v3/user/{quoted(user.id)}/openid/request_token", {})
        same(token["matrix_server_name"], server.name, "server of the token")
        status, _, raw = user.raw("GET", f"/_matrix/federation/v1/openid/userinfo?access_token={quoted(token['access_token'])}", secure=secure)
        check(status == 200 and user.id in raw.decode(), f"userinfo of {server.kind}: {status} {raw[:100]}")
        status, _, raw = user.raw("GET", "/_matrix/federation/v1/openid/userinfo?access_token=wrong", secure=secure)
        check(status == 401, f"userinfo of a wrong token: {status}")
