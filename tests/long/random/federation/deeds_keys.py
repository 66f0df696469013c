"""Deeds with devices: logins and logouts, their names and keys, keys claimed, cross-signing, messages to devices, syncs.

A message to devices that was not answered is sent again with its transaction, before the next, as clients do: so each
sender's messages stay in order.
"""
import copy
import time

from asking import CLIENT, GONE, quoted
from federation.deeds import asks, deed
from federation.people import PASSWORD, Device, NotYet
from federation.signing import Key


class Message:
    """Something said to a device, or to all of a user (`*`)."""

    def __init__(self, to, target, n, device):
        self.to, self.target, self.n, self.device = to, target, n, device
        self.sent, self.is_answered = time.monotonic(), False


@deed(3)
def login(life):
    user = life.some_user()
    if len(user.devices) > 3:
        return one_time_keys(life)
    body = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": user.id}, "password": PASSWORD,
            "initial_device_display_name": f"device {life.number()}"}
    with_fallback = life.rng.random() < 0.3

    def go():
        status, answer = user.site.line.ask("POST", CLIENT + "/login", body)
        if status == 200:
            device = Device(user, answer["access_token"], answer["device_id"])
            user.devices.append(device)
            device.uploads(3, with_fallback)

    return f"{user.id} logs in", go


@deed(2)
def logout(life):
    user = life.some_user()
    if len(user.devices) < 2:
        return login(life)
    device, alone = life.rng.choice(user.devices[1:]), life.rng.random() < 0.5

    def go():
        with user.lock, device.lock:
            device.is_gone = True
            if device in user.devices:
                user.devices.remove(device)
            if alone:
                return device.ask("POST", "/logout", {})
            return user.prove("POST", "/delete_devices", {"devices": [device.id]})

    return f"{user.id} logs {device.id} out", go


@deed(2)
def rename(life):
    device = life.some_device()
    return asks(device, "PUT", f"/devices/{quoted(device.id)}", {"display_name": f"device {life.number()}"})


@deed(2)
def one_time_keys(life):
    device, count, with_fallback = life.some_device(), life.rng.choice([1, 3, 8]), life.rng.random() < 0.3
    return f"{device.user.id} uploads keys of {device.id}", lambda: device.uploads(count, with_fallback)


def claims(life, user, device):
    """Claims a key of a device: each may be given out once."""
    status, answer = user.ask("POST", "/keys/claim", {"one_time_keys": {device.user.id: {device.id: "signed_curve25519"}}, "timeout": 8000})
    keys = answer.get("one_time_keys", {}).get(device.user.id, {}).get(device.id, {}) if status == 200 else {}
    with life.lock:
        for key_id, key in keys.items():
            if not key.get("fallback"):
                life.given[device.user.id, device.id, key_id] += 1
                if life.given[device.user.id, device.id, key_id] > 1:
                    life.findings.report("a one-time key is given twice", of=device.user.id, device=device.id, key=key_id)


@deed(5)
def claim(life):
    user, device = life.some_user(), life.some_device()
    return f"{user.id} claims a key of {device.user.id}", lambda: claims(life, user, device)


@deed(1.5)
def cross_sign(life):
    user, seeds = life.some_user(), [life.rng.randbytes(32) for _ in range(3)]

    def go():
        with user.lock:
            master, self_signing, user_signing = (Key(seed) for seed in seeds)
            body = {f"{usage}_key": {"user_id": user.id, "usage": [usage], "keys": {f"ed25519:{key.name}": key.name}}
                    for usage, key in (("master", master), ("self_signing", self_signing), ("user_signing", user_signing))}
            for part in ("self_signing_key", "user_signing_key"):
                body[part] = master.signed(body[part], user.id)
            status, answer = user.prove("POST", "/keys/device_signing/upload", body)
            if status == 200:
                user.master, user.self_signing, user.user_signing, user.master_key = master, self_signing, user_signing, body["master_key"]
            elif status != 503:
                life.findings.report("/keys/device_signing/upload", status=status, answer=answer)

    return f"{user.id} sets up cross-signing", go


@deed(2)
def sign(life):
    user, other, which, device = life.some_user(), life.some_user(), life.rng.random(), life.some_device()

    def go():
        with user.lock:
            mine = next((one for one in [device, *user.devices] if one.user is user and one.keys), None)
            if not user.master or not mine:
                return None
            if which < 0.6:
                body = {user.id: {mine.id: user.self_signing.signed(copy.deepcopy(mine.keys), user.id)}}
            elif which < 0.8:
                body = {user.id: {user.master.name: mine.key.signed(user.master_key, user.id, mine.id)}}
            elif other.master:
                body = {other.id: {other.master.name: user.user_signing.signed(other.master_key, user.id)}}
            else:
                return None
            return user.ask("POST", "/keys/signatures/upload", body)

    return f"{user.id} signs keys", go


def send_waiting(life, user):
    """Sends what of a user's messages has no answer yet."""
    while user.unsent:
        message = user.unsent[0]
        status, answer = message.device.ask("PUT", f"/sendToDevice/m.test/t{message.n}", {"messages": {message.to.id: {message.target: {"n": message.n}}}})
        if status >= 500:
            raise NotYet(f"/sendToDevice: {status}")
        message.is_answered = status == 200
        user.unsent.pop(0)
        # The device that sent may be logged out by now.
        if status not in (200, 401):
            life.findings.report("/sendToDevice", status=status, answer=answer)


@deed(6)
def to_device(life):
    user, other, to_all = life.some_user(), life.some_user(), life.rng.random() < 0.35
    count = life.rng.choice([1, 1, 1, 1, 2, 3, 8] + ([130] if life.rng.random() < 0.2 else []))
    targets = ["*" if to_all else life.rng.choice(other.devices).id for _ in range(count)]

    def go():
        with user.lock:
            for target in targets:
                if user.is_closed:
                    return
                message = Message(other, target, life.number(), user.first)
                life.to_device[user.id, other.id].append(message)
                user.unsent.append(message)
                send_waiting(life, user)

    return f"{user.id} sends {count} to devices of {other.id}", go


@deed(8)
def sync(life):
    device, refreshes = life.some_device(), life.rng.random() < 0.8

    def go():
        device.sync()
        if refreshes:
            device.refresh()

    return f"{device.user.id} syncs {device.id}", go


AWAY = (NotYet, *GONE)
