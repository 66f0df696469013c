"""Accounts and their devices on the servers of a life, and what each device's client has put together from /sync.

Modelled of a client: to-device messages in the order they came; whose keys it holds, asked for anew when device_lists names
the user, dropped when they left; who is a member of what. One request of a device at a time.
"""
import collections
import hashlib
import hmac
import json
import threading
import time

from asking import CLIENT, quoted
from federation.signing import Key
from world import servers

FILTER = json.dumps({"room": {"timeline": {"limit": 30}}})
PASSWORD = "password"


class NotYet(Exception):
    """A server did not answer as it does when it is well."""


def good(answer):
    status, content = answer
    if status != 200:
        raise NotYet(f"{status} {content}")
    return content


class User:
    def __init__(self, life, site, name, is_anchor):
        self.life, self.site, self.name, self.is_anchor, self.is_shown = life, site, name, is_anchor, True
        # Held by what must not run beside another deed of the user; and what waits to be said to devices, in order.
        self.lock, self.unsent = threading.RLock(), []
        self.is_closed, self.master, self.self_signing, self.user_signing, self.master_key = False, None, None, None, None
        at = "/_synapse/admin/v1/register"
        nonce = site.line.ask("GET", at)[1]["nonce"]
        mac = hmac.new(servers.SECRET.encode(), "\0".join([nonce, name, PASSWORD, "notadmin"]).encode(), hashlib.sha1).hexdigest()
        made = good(site.line.ask("POST", at, {"nonce": nonce, "username": name, "password": PASSWORD, "admin": False, "mac": mac}))
        self.id, self.devices = made["user_id"], []
        self.devices.append(Device(self, made["access_token"], made["device_id"]))

    def was_always_in(self, room):
        return room.creator is self or self.is_anchor and room.is_core

    @property
    def first(self):
        return self.devices[0]

    def ask(self, method, path, body=None, **query):
        return self.first.ask(method, path, body, **query)

    def prove(self, method, path, body):
        """A request that asks for the password."""
        status, answer = self.ask(method, path, body)
        if status == 401:
            proof = {"type": "m.login.password", "session": answer.get("session"), "identifier": {"type": "m.id.user", "user": self.id}, "password": PASSWORD}
            status, answer = self.ask(method, path, {**body, "auth": proof})
        return status, answer


class Device:
    def __init__(self, user, token, device_id):
        self.user, self.token, self.id, self.site = user, token, device_id, user.site
        self.begun, self.is_gone, self.lock = time.monotonic(), False, threading.RLock()
        self.key, self.keys = Key(user.life.rng.randbytes(32)), None
        self.since, self.received, self.typing = None, [], {}
        # User -> keys held; users whose keys are to be asked for; users ever met in a room.
        self.held, self.outdated, self.met = {}, set(), set()
        self.encrypted, self.members = set(), collections.defaultdict(dict)

    def ask(self, method, path, body=None, **query):
        return self.site.line.ask(method, path if path.startswith("/_") else CLIENT + path, body, self.token, remote=True, **query)

    def uploads(self, one_time, fallback=False):
        user, number = self.user, self.user.life.number
        if self.keys is None:
            keys = {f"curve25519:{self.id}": f"curve {self.id}", f"ed25519:{self.id}": self.key.name}
            algorithms = ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"]
            self.keys = self.key.signed({"user_id": user.id, "device_id": self.id, "algorithms": algorithms, "keys": keys}, user.id, self.id)
        body = {"device_keys": self.keys, "one_time_keys": {f"signed_curve25519:{number()}": self.one_key({}) for _ in range(one_time)}}
        if fallback:
            body["fallback_keys"] = {f"signed_curve25519:F{number()}": self.one_key({"fallback": True})}
        return self.ask("POST", "/keys/upload", body)

    def one_key(self, more):
        return self.key.signed({"key": f"key {self.user.life.number()}", **more}, self.user.id, self.id)

    def sync(self):
        with self.lock:
            if self.is_gone:
                return
            status, answer = self.ask("GET", "/sync", timeout=0, filter=FILTER, since=self.since)
            if status == 200:
                self.take(answer)
            elif status not in (401, 503):
                self.user.life.findings.report("/sync", user=self.user.id, status=status, answer=answer)

    def take(self, answer):
        self.received += [(event["sender"], event["content"]["n"]) for event in answer.get("to_device", {}).get("events", []) if "n" in event["content"]]
        lists = answer.get("device_lists", {})
        self.outdated |= set(lists.get("changed", []))
        for user in lists.get("left", []):
            self.held.pop(user, None)
            self.outdated.discard(user)
        for section in ("join", "leave"):
            for room_id, shown in answer.get("rooms", {}).get(section, {}).items():
                self.take_room(section, room_id, shown)
        self.since = answer["next_batch"]
        for room_id in self.encrypted:
            self.outdated |= {user for user in self.in_room(room_id) if user not in self.held}

    def take_room(self, section, room_id, shown):
        for event in shown.get("state", {}).get("events", []) + shown.get("timeline", {}).get("events", []):
            if event["type"] == "m.room.encryption" and "state_key" in event:
                self.encrypted.add(room_id)
            elif event["type"] == "m.room.member" and "state_key" in event:
                self.members[room_id][event["state_key"]] = event["content"].get("membership")
        if section == "leave":
            self.members.pop(room_id, None)
        self.met |= self.in_room(room_id)

    def in_room(self, room_id):
        """Who is in a room that the user is in as well."""
        members = self.members.get(room_id, {})
        return {user for user, what in members.items() if what == "join"} if members.get(self.user.id) == "join" else set()

    def refresh(self):
        """Asks for the keys of whom it has been told."""
        with self.lock:
            todo = set(self.outdated)
            if not todo or self.is_gone:
                return
            status, answer = self.ask("POST", "/keys/query", {"device_keys": {user: [] for user in todo}, "timeout": 8000})
            for user in todo:
                if status == 200 and user.split(":", 1)[1] not in answer.get("failures", {}):
                    self.held[user] = keys_of(answer, user)
                    self.outdated.discard(user)


def keys_of(answer, user, with_names=False):
    """A user's part of /keys/query. Signatures by keys that are no more say nothing to anybody, and are taken out."""
    devices = answer.get("device_keys", {}).get(user, {})
    signing = [answer.get(part, {}).get(user) for part in ("master_keys", "self_signing_keys")]
    valid = {f"ed25519:{device}" for device in devices} | {key for one in signing if one for key in one["keys"]}

    def bare(value):
        value = dict(value or {})
        value["signatures"] = {key: text for key, text in value.get("signatures", {}).get(user, {}).items() if key in valid}
        name = (value.pop("unsigned", None) or {}).get("device_display_name")
        return {**value, "name": name} if with_names else value

    return {"devices": {device: bare(one) for device, one in devices.items()}, "signing": [bare(one) for one in signing]}


def via(sites):
    return "&".join(f"via={quoted(site.name)}&server_name={quoted(site.name)}" for site in sites)
