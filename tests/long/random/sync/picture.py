"""A device's picture beside a fresh first sync with the same filter, and both beside the truth.

Modelled: which rooms stand where, state, members, summary with heroes, account data, receipts, typing, presence, unread counts,
timelines with their gaps, to-device messages (each once, in order), one-time keys, device lists. Not compared: unread counts of
a device whose filter leaves events or receipts out, for a room is not told when all its news is left out, so neither is its count;
nor of who ever ignored somebody, since what was counted before stays so. Their timelines are compared without what ignored users
sent.
"""
from findings import differences
from sync import joined
from sync.filters import has_room, passes


def check(observer):
    life = observer.life
    asked = observer.parameters(since=None, set_presence="offline")
    status, answer = life.line.ask("GET", "/_matrix/client/v3/sync", token=observer.user.tokens["fresh"], **asked)
    if status != 200:
        observer.report("a fresh sync is refused", status=status, answer=answer)
        return
    rooms = answer.get("rooms", {})
    check_sections(observer, rooms)
    check_own(observer, answer)
    check_left(observer, rooms.get("leave", {}))
    for room_id, fresh in rooms.get("join", {}).items():
        if room_id in observer.joined:
            life.findings.count("pictures")
            check_room(observer, life.truth.rooms[room_id], observer.joined[room_id], fresh)
    check_device(observer)


def check_sections(observer, rooms):
    for section, mine in (("join", observer.joined), ("invite", observer.invited), ("knock", observer.knocked)):
        fresh = rooms.get(section, {})
        # An ignored user's invite is not told, and hides that its guest had knocked.
        if set(fresh) != set(mine) and (section == "join" or not observer.user.ever_ignored):
            observer.report(f"rooms in {section}", only_picture=sorted(set(mine) - set(fresh)), only_fresh=sorted(set(fresh) - set(mine)))
    for room_id, shown in rooms.get("invite", {}).items():
        one, other = ({f"{event['type']} {event['state_key']}": event["content"] for event in events}
                      for events in (observer.invited.get(room_id, shown["invite_state"]["events"]), shown["invite_state"]["events"]))
        # What was redacted meanwhile is shown so afterwards.
        if one != other and not any(event.is_redacted for event in observer.life.truth.rooms[room_id].events):
            observer.report("invite_state", room=room_id, differences=differences(one, other))
    for part in ("ephemeral", "account_data"):
        criteria = observer.of_rooms.get(part, {})
        for section in ("join", "leave"):
            for room_id, shown in rooms.get(section, {}).items():
                leaks = [event["type"] for event in shown.get(part, {}).get("events", []) if not passes(criteria, event["type"], "", room_id)]
                if leaks:
                    observer.report(f"{part}: the filter leaves it out", room=room_id, types=leaks)


def check_own(observer, answer):
    fresh = {event["type"]: event["content"] for event in answer.get("account_data", {}).get("events", [])}
    if fresh != observer.account_data:
        observer.report("account data", differences=differences(observer.account_data, fresh))
    for event in answer.get("presence", {}).get("events", []):
        known = observer.presence.get(event["sender"])
        said = [{name: content.get(name) for name in ("presence", "status_msg")} for content in (known or {}, event["content"])]
        if said[0] != said[1] and (known or event["sender"] != observer.user.id):
            observer.report("presence", of=event["sender"], picture=known, fresh=event["content"])


def check_left(observer, left):
    life, user = observer.life, observer.user.id
    for room_id in left:
        if life.truth.rooms[room_id].membership(user) not in ("leave", "ban"):
            observer.report("left: is not", room=room_id)
    if not observer.of_rooms.get("include_leave"):
        return
    want = {room.id for room in life.truth.being(user, "leave", "ban") if (user, room.id) not in life.forgotten}
    if want - set(left):
        observer.report("left: not told", rooms=sorted(want - set(left)))
    for room_id in want & set(left):
        room = life.truth.rooms[room_id]
        last = room.left_at(user)
        if last is not None and last == room.memberships(user)[-1][0]:
            check_left_room(observer, room, last, left[room_id])


def check_left_room(observer, room, last, shown):
    seen = [event.id for event in observer.visible(room) if room.places[event.id] <= last and not event.is_from(observer.user.ignored)]
    ids = [event["event_id"] for event in shown["timeline"]["events"]]
    is_short = len(ids) < min(observer.limit, len(seen)) and not shown["timeline"]["limited"]
    if ids != seen[len(seen) - len(ids):] or is_short:
        observer.report("left, at first: timeline", room=room.id, got=ids, want=seen[-11:], limited=shown["timeline"]["limited"])
    state = {(event["type"], event["state_key"]): event["event_id"] for event in shown["state"]["events"]}
    state |= {(event["type"], event["state_key"]): event["event_id"] for event in shown["timeline"]["events"] if "state_key" in event}
    want = room.state_ids(last + 1)
    if state != want:
        observer.report("left, at first: state", room=room.id, differences=differences({str(key): value for key, value in state.items()},
                                                                                      {str(key): value for key, value in want.items()}))


def check_room(observer, room, picture, fresh):
    check_state(observer, room, picture)
    check_summary(observer, room, picture, fresh)
    check_beside(observer, room, picture, fresh)
    check_timeline(observer, room, picture, fresh)


def check_state(observer, room, picture):
    state = room.state()
    want = {key: event.id for key, event in state.items() if passes(observer.of_state, event.type, event.sender, room.id)}
    have = {key: event["event_id"] for key, event in picture.state.items()}
    if observer.is_lazy:
        # Of members only what is known must be right, and one's own.
        want = {key: event_id for key, event_id in want.items() if key[0] != "m.room.member" or key in have or key[1] == observer.user.id}
    in_timeline = {event["event_id"] for event in picture.timeline}
    wrong = [(key, have.get(key), event_id) for key, event_id in want.items() if have.get(key) != event_id]
    # A state event that the timeline's filter lets pass may have put an older one aside that only the state's filter leaves out.
    stray = [key for key in have if key not in state or observer.of_state == {} and have[key] not in want.values()]
    if wrong or stray:
        observer.report("state", room=room.id, wrong=[(*one, one[1] in in_timeline) for one in wrong[:5]], stray=stray[:5],
                        places=[(room.places.get(one[1]), room.places[one[2]]) for one in wrong[:5]], own=room.memberships(observer.user.id))


def check_summary(observer, room, picture, fresh):
    members = {key[1]: event.membership for key, event in room.state().items() if key[0] == "m.room.member"}
    counts = {f"m.{name}_member_count": sum(what == as_is for what in members.values()) for name, as_is in (("joined", "join"), ("invited", "invite"))}
    for name, summary in (("picture", picture.summary), ("fresh", fresh.get("summary", {}))):
        if {count: summary.get(count) for count in counts} != counts:
            observer.report(f"summary: counts, {name}", room=room.id, got=summary, want=counts)
    heroes = fresh.get("summary", {}).get("m.heroes")
    is_named = bool(room.content("m.room.name").get("name") or room.content("m.room.canonical_alias").get("alias"))
    if is_named == (heroes is not None):
        observer.report("summary: heroes of a named room, or none of another", room=room.id, summary=fresh.get("summary"))
    if is_named or heroes is None:
        return
    others = {user: what for user, what in members.items() if user != observer.user.id}
    here = {user for user, what in others.items() if what in ("join", "invite")}
    choice = here or {user for user, what in others.items() if what in ("leave", "ban")}
    if len(set(heroes)) != len(heroes) or not set(heroes) <= choice or len(heroes) < min(5, len(choice)):
        observer.report("summary: heroes", room=room.id, got=heroes, want=sorted(choice))
    # Whose filter hid that the room lost its name goes on calling it so, and needs no heroes.
    hides_names = {"senders", "not_senders"} & (set(observer.of_state) | set(observer.of_timeline))
    if sorted(picture.summary.get("m.heroes", ["none told"])) != sorted(heroes) and not hides_names:
        observer.report("summary: heroes, picture", room=room.id, picture=picture.summary, fresh=heroes)


def check_beside(observer, room, picture, fresh):
    leaves_out = {"types", "not_types", "senders", "not_senders", "not_rooms"} & set(observer.of_timeline) or observer.limit == 0 \
        or not passes(observer.of_rooms.get("ephemeral", {}), "m.receipt", "", room.id)
    threads = fresh.get("unread_thread_notifications") or {}
    if not leaves_out and not observer.user.ever_ignored and (picture.unread, picture.threads or {}) != (fresh.get("unread_notifications"), threads):
        observer.report("unread counts", room=room.id, picture=(picture.unread, picture.threads), fresh=(fresh.get("unread_notifications"), threads))
    account_data = {event["type"]: event["content"] for event in fresh.get("account_data", {}).get("events", [])}
    if account_data != picture.account_data:
        observer.report("account data of a room", room=room.id, differences=differences(picture.account_data, account_data))
    receipts, typing = joined.ephemeral(fresh)
    if (typing or []) != picture.typing and not observer.of_rooms.get("ephemeral"):
        observer.report("typing", room=room.id, picture=picture.typing, fresh=typing)
    check_receipts(observer, room, picture.receipts, receipts)


def check_receipts(observer, room, known, fresh):
    """Of receipts of one user on one event the unthreaded is shown, in place of those in threads (MSC4102)."""
    def stand_in(receipts, key, event_id):
        return any(other[:2] == key[:2] and other != key and at[0] == event_id for other, at in receipts.items())

    for key in set(known) | set(fresh):
        if known.get(key) == fresh.get(key):
            continue
        if key[2] is not None and any(key[:2] + (None,) in receipts for receipts in (known, fresh)):
            continue
        lacking = [receipts for receipts in (known, fresh) if key not in receipts]
        if not lacking or not stand_in(lacking[0], key, (known.get(key) or fresh[key])[0]):
            observer.report("receipts", room=room.id, key=key, picture=known.get(key), fresh=fresh.get(key))


def check_timeline(observer, room, picture, fresh):
    seen = [event for event in observer.visible(room) if passes(observer.of_timeline, event.type, event.sender, room.id)]
    ever = observer.user.ever_ignored
    want = [event.id for event in seen if not event.is_from(ever)]
    # What changed while the user was away, and held when they came, is told in its place though they may not see it there.
    have = [event["event_id"] for event in picture.timeline if event["event_id"] in want
            or "state_key" not in event and event["sender"] not in ever]
    if have and observer.limit and want[len(want) - len(have):] != have:
        since = want[want.index(have[0]):] if have[0] in want else want
        observer.report("timeline", room=room.id, missing=[(one, room.places[one]) for one in since if one not in have][:6],
                        beyond=[(one, room.places.get(one)) for one in have if one not in want][:6], own=room.memberships(observer.user.id))
    if observer.limit and not has_room(observer.of_timeline, room.id):
        return
    ids = [event["event_id"] for event in fresh["timeline"]["events"]]
    want = [event.id for event in seen if not event.is_from(observer.user.ignored)]
    is_short = len(ids) < len(want) and not fresh["timeline"]["limited"]
    if ids != want[len(want) - len(ids):] or is_short:
        observer.report("a fresh timeline", room=room.id, got=ids, want=want[-12:], limited=fresh["timeline"]["limited"])


def check_device(observer):
    life = observer.life
    sent = life.to_device[observer.user.id, observer.device]
    if observer.to_device != sent:
        observer.report("to-device messages", got=observer.to_device[-20:], want=sent[-20:], lost=[one for one in sent if one not in observer.to_device][:5])
    if observer.key_counts.get("signed_curve25519", 0) != observer.uploaded_keys:
        observer.report("one-time keys", got=observer.key_counts, want=observer.uploaded_keys)
    if observer.followed is None:
        return
    sharing = life.truth.sharing(observer.user.id, encrypted=True)
    if sharing - set(observer.followed):
        observer.report("device lists: not told who shares a room", users=sorted(sharing - set(observer.followed)))
    for user in sharing & set(observer.followed):
        now = observer.user.keys_of([user]).get(user)
        if now != observer.followed[user]:
            observer.report("device lists: a change is not told", of=user, differences=differences(observer.followed[user], now))
    # Whom the user invited they may go on to follow, to have their keys when they come.
    invited = {event.key[1] for room in life.truth.rooms.values() for event in room.events
               if event.type == "m.room.member" and event.membership == "invite" and event.sender == observer.user.id}
    gone = set(observer.followed) - life.truth.sharing(observer.user.id, encrypted=False) - {observer.user.id} - invited
    if gone:
        observer.report("device lists: not told who left", users=sorted(gone))
