"""Scenarios: end-to-end encryption as servers see it: keys, one-time keys, cross-signing, device lists, to-device messages.

Device keys are random bytes, which servers cannot tell from real ones; cross-signing keys are real, since servers check them.
"""
import base64
import json
import os
import pathlib
import tempfile

from client import COUNTER, User, quoted, until
from plan import check, same, scenario
from servers import run

ALGORITHMS = ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"]


def b64(data):
    return base64.b64encode(data).decode().rstrip("=")


def upload_keys(user, count=5):
    """Device keys and one-time keys; gives the device's Ed25519 key."""
    key = b64(os.urandom(32))
    device = {"user_id": user.id, "device_id": user.device, "algorithms": ALGORITHMS,
              "keys": {f"curve25519:{user.device}": b64(os.urandom(32)), f"ed25519:{user.device}": key},
              "signatures": {user.id: {f"ed25519:{user.device}": b64(os.urandom(64))}}}
    one_time = {f"signed_curve25519:{b64(os.urandom(4))}": {"key": b64(os.urandom(32)), "signatures": {user.id: {f"ed25519:{user.device}": b64(os.urandom(64))}}}
                for _ in range(count)}
    user.post("v3/keys/upload", {"device_keys": device, "one_time_keys": one_time})
    return key


def queried(user, whom):
    return user.post("v3/keys/query", {"device_keys": {whom.id: []}, "timeout": 10000})


def devices_of(user, whom):
    return queried(user, whom).get("device_keys", {}).get(whom.id, {})


class Signer:
    """An Ed25519 key of openssl."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="peers-key-"))
        self.file = self.folder / "key.pem"
        run("openssl", "genpkey", "-algorithm", "ed25519", "-out", self.file)
        self.public = b64(run("openssl", "pkey", "-in", self.file, "-pubout", "-outform", "DER")[-32:])

    def signs(self, thing):
        text = self.folder / "text"
        bare = {key: value for key, value in thing.items() if key not in ("signatures", "unsigned")}
        text.write_bytes(json.dumps(bare, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())
        return b64(run("openssl", "pkeyutl", "-sign", "-rawin", "-inkey", self.file, "-in", text))


def cross_sign(user):
    """Uploads a master and a self-signing key; gives the public master key."""
    master, own = Signer(), Signer()
    keys = {"master_key": {"user_id": user.id, "usage": ["master"], "keys": {f"ed25519:{master.public}": master.public}},
            "self_signing_key": {"user_id": user.id, "usage": ["self_signing"], "keys": {f"ed25519:{own.public}": own.public}}}
    keys["self_signing_key"]["signatures"] = {user.id: {f"ed25519:{master.public}": master.signs(keys["self_signing_key"])}}
    path = "/_matrix/client/v3/keys/device_signing/upload"
    status, answer = user.ask("POST", path, keys)
    if status == 401:
        keys["auth"] = {"type": "m.login.password", "session": answer.get("session"), "identifier": {"type": "m.id.user", "user": user.id}, "password": user.password}
        user.must("POST", path, keys)
    else:
        same(status, 200, f"cross-signing keys ({answer})")
    return master.public


@scenario("encrypted room: keys, device lists, to-device", versioned=False)
def encrypted(w):
    alice, bob = w.pair()
    own = {alice.id: upload_keys(alice), bob.id: upload_keys(bob)}
    alice.sync()
    bob.sync()  # a first sync tells of no changes
    room = w.room(alice, preset="public_chat", initial_state=[{"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}])
    bob.joins(room, w.here.name)
    for user, other in ((alice, bob), (bob, alice)):
        user.sees(lambda u=user, o=other: o.id in u.changed, f"{other.server.kind}'s user in device_lists.changed by the join")
        found = until(lambda u=user, o=other: devices_of(u, o), f"devices of a user of {other.server.kind}")
        same(found[other.device]["keys"][f"ed25519:{other.device}"], own[other.id], "device key")
        claimed = user.post("v3/keys/claim", {"one_time_keys": {other.id: {other.device: "signed_curve25519"}}, "timeout": 10000})
        check(len(claimed.get("one_time_keys", {}).get(other.id, {}).get(other.device, {})) == 1, f"no key of a user of {other.server.kind}: {claimed}")
        # To the device, one and all of them.
        for target in (other.device, "*"):
            body = f"secret {target == '*'}"
            user.put(f"v3/sendToDevice/m.room.encrypted/d{next(COUNTER)}", {"messages": {other.id: {target: {"algorithm": "m.olm.v1.curve25519-aes-sha2", "body": body}}}})
            other.sees(lambda o=other, b=body: [one for one in o.to_device if one["content"].get("body") == b], f"a to-device message from {user.server.kind}")
        check(len(other.to_device) == 2 and all(one["sender"] == user.id for one in other.to_device), f"{len(other.to_device)} to-device messages, not 2")
    cipher = {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "AwgAEnACgAkLmt6qF84IK", "session_id": "s", "sender_key": "k", "device_id": alice.device}
    for user, other in ((alice, bob), (bob, alice)):
        sent = user.sends(room, "m.room.encrypted", {**cipher, "session_id": user.id})
        other.sees(lambda o=other, e=sent: any(one["event_id"] == e for one in o.rooms[room].timeline), f"an encrypted message of {user.server.kind}")


@scenario("device lists: new, renamed, deleted, cross-signing, left", versioned=False)
def device_lists(w):
    alice, bob = w.pair()
    upload_keys(alice)
    upload_keys(bob)
    room = w.room(alice, preset="public_chat", initial_state=[{"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}])
    bob.joins(room, w.here.name)
    for user, other in ((alice, bob), (bob, alice)):
        user.sees_membership(room, other, "join")
        until(lambda u=user, o=other: o.device in devices_of(u, o), f"devices of a user of {other.server.kind}")
    for user, other in ((alice, bob), (bob, alice)):
        kind = other.server.kind

        def noticed(what, test, u=user, o=other):
            u.sees(lambda: o.id in u.changed, f"in device_lists.changed: {what} on {kind}")
            until(test, f"after keys/query: {what} on {kind}")
            u.changed.discard(o.id)

        user.sync()
        user.changed.discard(other.id)
        second = other.another_device()
        upload_keys(second)
        noticed("a new device", lambda u=user, o=other, s=second: s.device in devices_of(u, o))
        other.put(f"v3/devices/{quoted(second.device)}", {"display_name": "telephone"})
        until(lambda u=user, o=other, s=second: devices_of(u, o)[s.device].get("unsigned", {}).get("device_display_name") == "telephone", f"the new name of a device on {kind}")
        user.sync()
        user.changed.discard(other.id)
        second.post("v3/logout", {})
        noticed("a device less", lambda u=user, o=other, s=second: s.device not in devices_of(u, o))
        master = cross_sign(other)
        noticed("cross-signing", lambda u=user, o=other, m=master: f"ed25519:{m}" in queried(u, o).get("master_keys", {}).get(o.id, {}).get("keys", {}))
        until(lambda u=user, o=other: o.id in queried(u, o).get("self_signing_keys", {}), f"a self-signing key of a user of {kind}")
    alice.sync()
    bob.leaves(room)
    alice.sees(lambda: bob.id in alice.left, "device_lists.left")


@scenario("device lists: changed while the other server was away", versioned=False, alone=True)
def device_lists_away(w):
    alice, bob, room = w.shared()
    upload_keys(alice)
    upload_keys(bob)
    for user, other in ((alice, bob), (bob, alice)):
        until(lambda u=user, o=other: o.device in devices_of(u, o), f"devices of a user of {other.server.kind}")
        user.sync()
        user.changed.discard(other.id)
    w.partition(True)
    new = {}
    for user in (alice, bob):
        new[user.id] = [user.another_device() for _ in range(3)]
        for one in new[user.id]:
            upload_keys(one)
    for user, other in ((alice, bob), (bob, alice)):
        user.put(f"v3/sendToDevice/m.test/w{next(COUNTER)}", {"messages": {other.id: {other.device: {"body": "kept"}}}})
    w.partition(False)
    w.both_hear(alice, bob, room, "wake")
    for user, other in ((alice, bob), (bob, alice)):
        user.sees(lambda u=user, o=other: o.id in u.changed, f"in device_lists.changed: what was missed of {other.server.kind}", 60)
        until(lambda u=user, o=other: {one.device for one in new[o.id]} <= set(devices_of(u, o)), f"new devices on {other.server.kind}", 60)
        user.sees(lambda u=user: [one for one in u.to_device if one["content"].get("body") == "kept"], f"the to-device message kept by {other.server.kind}", 60)
