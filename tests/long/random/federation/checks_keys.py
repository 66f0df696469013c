"""Devices in the end: keys as all servers tell them, keys that clients hold, messages to devices, one-time keys.

Modelled: each server answers /keys/query with what the user's own server has, names, cross-signing and signatures included. A
client that was only told by device_lists holds the present keys of everybody it shares an encrypted room with, and none of who
left its rooms, by what its own server knows. Every answered message is there once, in the order in which its sender sent them.
"""
import collections

from asking import quoted
from federation.checks_rooms import at, joined
from federation.deeds_keys import claims, send_waiting
from federation.people import NotYet, good, keys_of
from findings import differences


def query(life, user):
    answer = good(user.ask("POST", "/keys/query", {"device_keys": {one.id: [] for one in life.living()}, "timeout": 10_000}))
    if answer.get("failures"):
        raise NotYet(f"failures: {answer['failures']}")
    return answer


def truth(life, with_names):
    """{user id: keys} as each user's own server tells them."""
    answers = {site: query(life, life.user_of(site)) for site in life.sites}
    return {user.id: keys_of(answers[user.site], user.id, with_names) for user in life.living()}


def keys(life):
    want = truth(life, with_names=True)
    for user in life.living():
        answer = query(life, user)
        for other in life.living():
            found = differences(want[other.id], keys_of(answer, other.id, with_names=True))
            if found:
                yield f"keys of {other.id} as told to {user.id}: {found}"


def held_keys(life):
    want, rooms_of = truth(life, with_names=False), joined(life)
    for user in life.living():
        encrypted = {room.id for room in life.rooms if room.id in rooms_of[user.id] and user.ask("GET", at(room) + "/state/m.room.encryption/")[0] == 200}
        for device in list(user.devices):
            for _ in range(2):
                device.sync()
                device.refresh()
            met = {other for room_id in rooms_of[user.id] for other in good(user.ask("GET", f"/rooms/{quoted(room_id)}/joined_members"))["joined"]}
            invited = {other for members in device.members.values() for other, what in members.items() if what == "invite"}
            for other in life.living():
                held = device.held.get(other.id)
                if held and encrypted & rooms_of[other.id] and other.id not in device.outdated and differences(want[other.id], held):
                    yield f"{device.id} of {user.id} was not told of {other.id}: {differences(want[other.id], held)}"
                if held and other.id not in met and other is not user and other.id in device.met - invited:
                    yield f"{device.id} of {user.id} was not told that {other.id} left"


def messages(life):
    for user in life.living():
        with user.lock:
            send_waiting(life, user)
    for user in life.living():
        for device in list(user.devices):
            device.sync()
            received = collections.defaultdict(list)
            for sender, n in device.received:
                received[sender].append(n)
            for sender, numbers in received.items():
                if numbers != sorted(set(numbers)):
                    wrong = [pair for pair in zip(numbers, numbers[1:]) if pair[0] >= pair[1]]
                    yield f"messages of {sender} to {device.id} of {user.id} out of order or twice: {wrong[:5]}"
            yield from lost(life, user, device, received)


def lost(life, user, device, received):
    for (sender, receiver), sent in life.to_device.items():
        if receiver != user.id:
            continue
        for message in sent:
            is_for_it = message.target in ("*", device.id) and device.begun < message.sent
            has_it = message.n in received[sender]
            if message.is_answered and is_for_it and not has_it:
                yield f"message {message.n} of {sender} to {message.target} is lost for {device.id} of {user.id}"
            if has_it and message.target not in ("*", device.id):
                yield f"message {message.n} of {sender} to {message.target} came to {device.id} of {user.id}"


def one_time(life):
    """Claims what is left: no key may be one that was given before."""
    for user in life.living():
        for device in list(user.devices):
            for _ in range(3):
                claims(life, life.some_user(lambda one: one.site is not user.site), device)
    return ()
