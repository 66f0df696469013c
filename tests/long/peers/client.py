"""One user's client: requests, and what /sync has shown so far. Every wait has an end, and says what was waited for."""
import collections
import hashlib
import hmac
import http.client
import itertools
import json
import secrets
import time
import urllib.parse

from servers import SECRET

ANSWER_S = 60
PATIENCE_S = 30
COUNTER = itertools.count(1)


class Failed(Exception):
    """A scenario did not go as it should."""


def quoted(text):
    return urllib.parse.quote(text, safe="")


def query(**values):
    return urllib.parse.urlencode({key: value for key, value in values.items() if value is not None}, doseq=True)


def until(check, what, seconds=PATIENCE_S):
    """What `check` gives as soon as that is true; asked again after a short pause."""
    end, pause = time.monotonic() + seconds, 0.05
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > end:
            raise Failed(f"not within {seconds} s: {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.5)


class Seen:
    """A room as /sync has shown it."""

    def __init__(self):
        self.membership, self.timeline, self.state, self.stripped = None, [], {}, {}
        self.typing, self.receipts, self.limited = [], {}, False


class User:
    """An account with one device."""

    def __init__(self, server, name, device=None):
        self.server, self.since, self.connection = server, None, None
        self.token = self.id = self.device = None
        self.rooms = collections.defaultdict(Seen)
        self.to_device, self.changed, self.left, self.presence = [], set(), set(), {}
        self.password = f"password-{secrets.token_hex(4)}"
        if device is None:
            self.register(server.fresh(name))

    # Requests

    def raw(self, method, path, body=None, headers=None, secure=None):
        """-> (status, headers, bytes); `secure` asks as other servers do, by TLS at the server's name."""
        given = {"Authorization": f"Bearer {self.token}"} if self.token and not secure else {}
        if body is not None and not isinstance(body, bytes):
            body, given["Content-Type"] = json.dumps(body), "application/json"
        given.update(headers or {})
        for attempt in (1, 2):
            if secure:
                connection = http.client.HTTPSConnection(self.server.address, self.server.name_port, timeout=ANSWER_S, context=secure)
            else:
                connection = self.connection = self.connection or http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=ANSWER_S)
            try:
                connection.request(method, path, body, given)
                answer = connection.getresponse()
                return answer.status, answer.headers, answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self.connection = None
                if attempt == 2 or isinstance(error, TimeoutError):
                    raise Failed(f"{self.server.kind}: {method} {path.partition('?')[0]}: {error!r}") from error
        return None

    def ask(self, method, path, body=None):
        """-> (status, JSON)."""
        status, _, raw = self.raw(method, path, body)
        try:
            return status, json.loads(raw)
        except ValueError:
            return status, {"not JSON": raw[:200].decode(errors="replace")}

    def must(self, method, path, body=None):
        status, answer = self.ask(method, path, body)
        if status != 200:
            raise Failed(f"{self.server.kind}: {method} {urllib.parse.unquote(path.partition('?')[0])}: {status} {answer}")
        return answer

    def refused(self, status, method, path, body=None):
        got, answer = self.ask(method, path, body)
        if got != status:
            raise Failed(f"{self.server.kind}: {method} {urllib.parse.unquote(path.partition('?')[0])}: {got} {answer}, not {status}")
        return answer

    def get(self, path, **values):
        return self.must("GET", f"/_matrix/client/{path}" + (f"?{query(**values)}" if values else ""))

    def post(self, path, body=None):
        return self.must("POST", f"/_matrix/client/{path}", body or {})

    def put(self, path, body):
        return self.must("PUT", f"/_matrix/client/{path}", body)

    def register(self, name):
        path = "/_synapse/admin/v1/register"
        nonce = self.must("GET", path)["nonce"]
        mac = hmac.new(SECRET.encode(), "\0".join([nonce, name, self.password, "notadmin"]).encode(), hashlib.sha1).hexdigest()
        made = self.must("POST", path, {"nonce": nonce, "username": name, "password": self.password, "admin": False, "mac": mac})
        self.token, self.id, self.device = made["access_token"], made["user_id"], made["device_id"]

    def another_device(self):
        other = User(self.server, None, device="new")
        other.password = self.password
        made = other.post("v3/login", {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": self.id}, "password": self.password,
                                       "initial_device_display_name": "another"})
        other.token, other.id, other.device = made["access_token"], made["user_id"], made["device_id"]
        return other

    # Rooms

    def creates(self, version, **body):
        return self.post("v3/createRoom", {"room_version": version, **body})["room_id"]

    def room(self, room, rest):
        return f"v3/rooms/{quoted(room)}/{rest}"

    def joins(self, room, *via):
        return self.post(f"v3/join/{quoted(room)}" + (f"?{query(via=via, server_name=via)}" if via else ""))["room_id"]

    def may_not_join(self, room, *via):
        return self.refused(403, "POST", f"/_matrix/client/v3/join/{quoted(room)}?{query(via=via, server_name=via)}", {})

    def leaves(self, room):
        self.post(self.room(room, "leave"))

    def does(self, what, room, whom, reason=None):
        """invite, kick, ban, unban."""
        self.post(self.room(room, what), {"user_id": whom.id, **({"reason": reason} if reason else {})})

    def sends(self, room, kind, content):
        return self.put(self.room(room, f"send/{quoted(kind)}/t{next(COUNTER)}"), content)["event_id"]

    def says(self, room, text):
        return self.sends(room, "m.room.message", {"msgtype": "m.text", "body": text})

    def sets(self, room, kind, content, key=""):
        return self.put(self.room(room, f"state/{quoted(kind)}/{quoted(key)}"), content)["event_id"]

    def reads(self, room, kind, key=""):
        """The content of state, `None` if there is none."""
        status, answer = self.ask("GET", f"/_matrix/client/{self.room(room, f'state/{quoted(kind)}/{quoted(key)}')}")
        return answer if status == 200 else None

    def state(self, room):
        return {(one["type"], one["state_key"]): one["event_id"] for one in self.get(self.room(room, "state"))}

    def event(self, room, event_id):
        return self.get(self.room(room, f"event/{quoted(event_id)}"))

    def history(self, room, limit=5000):
        """The room's events from its end back to where it ends for this user."""
        found, token = [], None
        while len(found) < limit:
            page = self.get(self.room(room, "messages"), dir="b", limit=100, **({"from": token} if token else {}))
            found += page["chunk"]
            token = page.get("end")
            if not token:
                break
        return found

    def membership(self, room, whom):
        return (self.reads(room, "m.room.member", whom.id) or {}).get("membership")

    # What /sync shows

    def sync(self, timeout_ms=0):
        answer = self.get("v3/sync", since=self.since, timeout=timeout_ms, filter='{"room":{"timeline":{"limit":100}}}')
        for kind, rooms in answer.get("rooms", {}).items():
            for room, shown in rooms.items():
                self.take_room(kind, self.rooms[room], shown)
        self.to_device += answer.get("to_device", {}).get("events", [])
        self.changed |= set(answer.get("device_lists", {}).get("changed", []))
        self.left |= set(answer.get("device_lists", {}).get("left", []))
        for one in answer.get("presence", {}).get("events", []):
            self.presence[one["sender"]] = one["content"]
        self.since = answer["next_batch"]

    @staticmethod
    def take_room(kind, seen, shown):
        seen.membership = kind
        stripped = shown.get("invite_state") or shown.get("knock_state")
        if stripped:
            seen.stripped = {(one["type"], one["state_key"]): one["content"] for one in stripped["events"]}
        timeline = shown.get("timeline", {})
        seen.limited |= bool(timeline.get("limited"))
        known = {one["event_id"] for one in seen.timeline}
        seen.timeline += [one for one in timeline.get("events", []) if one["event_id"] not in known]
        for one in [*shown.get("state", {}).get("events", []), *timeline.get("events", [])]:
            if "state_key" in one:
                seen.state[one["type"], one["state_key"]] = one
        for one in shown.get("ephemeral", {}).get("events", []):
            if one["type"] == "m.typing":
                seen.typing = one["content"]["user_ids"]
            elif one["type"] == "m.receipt":
                for event_id, kinds in one["content"].items():
                    for kind_of, users in kinds.items():
                        for user in users:
                            seen.receipts[kind_of, user] = event_id

    def sees(self, check, what, seconds=PATIENCE_S):
        """Syncs until `check()` is true."""
        end = time.monotonic() + seconds
        self.sync()
        while True:
            found = check()
            if found:
                return found
            if time.monotonic() > end:
                raise Failed(f"{self.server.kind} did not show within {seconds} s: {what}")
            self.sync(500)

    def bodies(self, room):
        """Texts of a room: those of the timeline, and if that had a gap, of its history."""
        seen = self.rooms[room]
        events = seen.timeline + (self.history(room, 500) if seen.limited else [])
        return [one["content"].get("body") for one in events if one["type"] == "m.room.message"]

    def hears(self, room, *texts, seconds=PATIENCE_S):
        def missing():
            have = set(self.bodies(room))
            return [one for one in texts if one not in have]

        try:
            self.sees(lambda: not missing(), "", seconds)
        except Failed as failed:
            lost = missing()
            if lost:
                raise Failed(f"{self.server.kind} did not show within {seconds} s: {len(lost)} of {len(texts)} messages, first {lost[0]!r}") from failed

    def sees_membership(self, room, whom, membership, seconds=PATIENCE_S):
        self.sees(lambda: self.rooms[room].state.get(("m.room.member", whom.id), {}).get("content", {}).get("membership") == membership,
                  f"{membership} of a user of {whom.server.kind}", seconds)

    def is_in(self, room, membership, seconds=PATIENCE_S):
        self.sees(lambda: room in self.rooms and self.rooms[room].membership == membership, f"the room as {membership}", seconds)
