"""Deeds beside rooms and keys: typing, receipts, presence, profiles, aliases, the list of rooms, media, looks at what is elsewhere,
and rarely an account that closes."""
import random
import struct
import time
import zlib

from asking import V1, quoted
from federation.deeds import asks, deed
from federation.deeds_rooms import at, message
from federation.people import via


@deed(3)
def typing(life):
    user = life.some_user()
    is_typing = life.rng.random() < 0.7
    return asks(user.first, "PUT", f"{at(life.some_room())}/typing/{quoted(user.id)}", {"typing": True, "timeout": 5000} if is_typing else {"typing": False})


@deed(6)
def receipt(life):
    if not life.said:
        return message(life)
    room, event, _, _ = life.rng.choice(life.said[-50:])
    user, kind = life.some_user(), life.rng.choice(["m.read", "m.read", "m.read.private", "m.fully_read"])
    body = {"thread_id": "main"} if kind != "m.fully_read" and life.rng.random() < 0.4 else {}

    def go():
        key = room.id, user.id, body.get("thread_id")
        is_taken = user.ask("POST", f"{at(room)}/receipt/{kind}/{quoted(event)}", body)[0] == 200
        # Nobody else is told of the others, nor once more of the same.
        if is_taken and kind == "m.read" and life.read_last.get(key) != event:
            life.read_last[key], life.read_at[key] = event, time.monotonic()

    return f"{user.id} reads {event}", go


@deed(2)
def presence(life):
    user = life.some_user()
    said = {"presence": life.rng.choice(["online", "unavailable", "offline"]), "status_msg": f"status {life.number()}"}
    return asks(user.first, "PUT", f"/presence/{quoted(user.id)}/status", said)


@deed(3)
def profile(life):
    user, n = life.some_user(), life.number()
    names, pictures = [("displayname", f"name {n}")] * 2, [("avatar_url", f"mxc://{user.site.name}/{n}"), ("avatar_url", "")]
    field, value = life.rng.choice([*names, *pictures])

    def go():
        with user.lock:
            # What a kill cuts short before the answer is said again by its user, and only then shown in all rooms.
            user.is_shown = False
            user.is_shown = user.ask("PUT", f"/profile/{quoted(user.id)}/{field}", {field: value})[0] == 200

    return f"{user.id} sets {field}", go


@deed(1.5)
def alias(life):
    user, room = life.some_user(), life.some_room()
    name = f"#alias{life.rng.randrange(8)}:{user.site.name}"
    life.aliases[name] = user.site
    if life.rng.random() < 0.6:
        return asks(user.first, "PUT", f"/directory/room/{quoted(name)}", {"room_id": room.id})
    return asks(user.first, "DELETE", f"/directory/room/{quoted(name)}")


@deed(1)
def publish(life):
    return asks(life.some_user().first, "PUT", f"/directory/list/room/{quoted(life.some_room().id)}", {"visibility": life.rng.choice(["public", "private"])})


@deed(1)
def look(life):
    """Asks what other servers have to answer; whether they do is another matter."""
    room, site = quoted(life.some_room().id), quoted(life.rng.choice(life.sites).name)
    long_ago = int(time.time() * 1000) - life.rng.randrange(60_000)
    return asks(life.some_user().first, "GET", life.rng.choice([
        f"{V1}/rooms/{room}/hierarchy", f"/publicRooms?server={site}", f"/directory/room/{quoted(f'#alias{life.rng.randrange(8)}:')}{site}",
        f"{V1}/room_summary/{room}?{via(life.sites)}", f"{V1}/rooms/{room}/timestamp_to_event?ts={long_ago}&dir=b",
        f"/rooms/{room}/messages?dir=b&limit=50", f"/rooms/{room}/members"]))


def picture(width, height, seed):
    """A small PNG that does not compress to nothing."""
    rng = random.Random(seed)
    colour = rng.randbytes(3)
    rows = b"".join(b"\0" + bytes(rng.randrange(256) if x % 7 == 0 else colour[x % 3] for x in range(width * 3)) for _ in range(height))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@deed(1.5)
def upload(life):
    user, n, is_picture = life.some_user(), life.number(), life.rng.random() < 0.5
    data = picture(life.rng.choice([40, 300]), life.rng.choice([40, 200]), n) if is_picture else life.rng.randbytes(life.rng.choice([0, 10, 5000, 500_000]))
    headers = {"Authorization": f"Bearer {user.first.token}", "Content-Type": "image/png" if is_picture else "application/octet-stream"}

    def go():
        status, _, answer = user.site.line.raw("POST", "/_matrix/media/v3/upload", data, headers)
        if status == 200:
            life.media.append((answer.decode().split("mxc://")[1].split('"')[0], data, is_picture))

    return f"{user.id} uploads {len(data)} bytes", go


def fetch(user, path, **headers):
    return user.site.line.raw("GET", f"{V1}/media/{path}", None, {"Authorization": f"Bearer {user.first.token}", **headers})


@deed(2)
def download(life):
    if not life.media:
        return upload(life)
    (media, data, is_picture), user, how = life.rng.choice(life.media), life.some_user(), life.rng.choice(["whole", "thumbnail", "range"])
    begin = life.rng.randrange(max(1, len(data) - 50))

    def go():
        if how == "thumbnail" and is_picture:
            status, headers, _ = fetch(user, f"thumbnail/{media}?width=96&height=96&method=scale")
            is_good = status != 200 or (headers["Content-Type"] or "").startswith("image/")
        elif how == "range" and len(data) > 100:
            status, _, got = fetch(user, f"download/{media}", Range=f"bytes={begin}-{begin + 40}")
            is_good = got == (data[begin:begin + 41] if status == 206 else data) or status not in (200, 206)
        else:
            status, _, got = fetch(user, f"download/{media}")
            is_good = got == data or status != 200
        if not is_good or status == 500:
            life.findings.report("media", media=media, how=how, status=status, of=user.id)

    return f"{user.id} downloads {media}, {how}", go


@deed(0.15)
def close_account(life):
    user, erase = life.some_user(), life.rng.random() < 0.5
    if user.is_anchor or any(one.is_closed for one in life.users) or any(room.creator is user for room in life.rooms):
        return message(life)

    def go():
        with user.lock:
            if erase:
                life.erased.add(user.id)
            if user.prove("POST", "/account/deactivate", {"erase": erase})[0] == 200:
                user.is_closed = True
                for device in user.devices:
                    device.is_gone = True

    return f"{user.id} closes the account", go
