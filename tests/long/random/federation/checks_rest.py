"""The rest in the end: profiles and names in rooms, receipts, typing, presence, media.

Modelled: each server tells a user's profile as their own does, and their names in rooms are those of the profile. Receipts that
their own server shows are shown by all, and nobody types any more. Not held against a server: a receipt whose giver's server was
killed afterwards (what waits for another server waits in memory), one that a server came too late for, or one that came before
the news that its giver had joined (through a third server, and is dropped: known, and left); and presence where either server was
killed (it is in memory). A change of profile that was not answered may show in some rooms alone.
"""
import json
import time

from asking import quoted
from federation.checks_rooms import ONE_EVENT, at, joined
from federation.deeds_rest import fetch
from federation.people import good

# So much later than the joiner another server may hear of a join.
HEARD_S = 20


def profiles(life):
    rooms_of = joined(life)
    for user in life.users:
        told = {site.name: life.user_of(site).ask("GET", f"/profile/{quoted(user.id)}") for site in life.sites}
        own = told[user.site.name]
        yield from (f"profile of {user.id} at {name}: {one}, at home {own}" for name, one in told.items() if one != own)
        if user.is_closed or not user.is_shown:
            continue
        for room in (room for room in life.rooms if room.id in rooms_of[user.id]):
            member = good(user.ask("GET", f"{at(room)}/state/m.room.member/{quoted(user.id)}"))
            unlike = [name for name in ("displayname", "avatar_url") if member.get(name) != own[1].get(name)]
            if unlike:
                yield f"{user.id} in {room.id}: {member}, profile {own[1]}"


def receipts(life):
    rooms_of, shown = joined(life), {}
    for viewer in life.living():
        told = good(viewer.ask("GET", "/sync", timeout=0, filter=ONE_EVENT)).get("rooms", {}).get("join", {})
        for room_id, room in told.items():
            for event in room.get("ephemeral", {}).get("events", []):
                if event["type"] == "m.typing" and event["content"]["user_ids"]:
                    yield f"typing in {room_id} for {viewer.id}: {event['content']['user_ids']}"
                elif event["type"] == "m.receipt":
                    for event_id, kinds in event["content"].items():
                        for reader, data in kinds.get("m.read", {}).items():
                            shown.setdefault((room_id, reader, data.get("thread_id")), {})[viewer.id] = event_id
    users, rooms = {user.id: user for user in life.living()}, {room.id: room for room in life.rooms}
    for key, told in shown.items():
        (room_id, reader, _), read_at = key, life.read_at.get(key, 0)
        if reader not in users or room_id not in rooms_of[reader] or any(kill > read_at for kill in users[reader].site.kills):
            continue
        for viewer in users.values():
            room = rooms[room_id]
            # One in a thread is not taken where that of the room stands at the same event (MSC4102), which may move on later.
            if key[2] and viewer.id not in told and viewer.id in shown.get((room_id, reader, None), {}):
                continue
            # Who sends a receipt may hear later than the joiner that a server is there, if it was a third that let it in.
            is_new = not room.is_core and room.entered.get(viewer.site, 0) + HEARD_S > read_at or not users[reader].was_always_in(room)
            if room_id in rooms_of[viewer.id] and told.get(viewer.id) != told.get(reader) and not is_new:
                when = [round(time.monotonic() - at, 1) for at in (read_at, room.entered.get(viewer.site, 0))]
                others = [(thread, told.get(viewer.id)) for (where, who, thread), told in shown.items() if (where, who) == key[:2]]
                yield f"receipt of {key}: {told.get(reader)} at home, {told.get(viewer.id)} for {viewer.id}; read and entered {when} s ago; all: {others}"


def presence(life):
    rooms_of = joined(life)
    for user in life.living():
        own = said(good(user.ask("GET", f"/presence/{quoted(user.id)}/status")))
        for viewer in life.living():
            if rooms_of[viewer.id] & rooms_of[user.id] and not viewer.site.kills and not user.site.kills:
                status, answer = viewer.ask("GET", f"/presence/{quoted(user.id)}/status")
                if said(answer) != own:
                    yield f"presence of {user.id}: {own} at home, {status} {answer} for {viewer.id}"


def said(answer):
    return json.dumps([answer.get("presence"), answer.get("status_msg")])


def media(life):
    for name, data, is_picture in life.media:
        for site in life.sites:
            status, _, got = fetch(life.user_of(site), f"download/{name}")
            if status != 200 or got != data:
                yield f"media {name} at {site.name}: {status}, {len(got)} bytes of {len(data)}"
            if is_picture and fetch(life.user_of(site), f"thumbnail/{name}?width=96&height=96&method=crop")[0] != 200:
                yield f"thumbnail of {name} at {site.name}"
