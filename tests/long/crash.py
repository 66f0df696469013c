#!/usr/bin/env python3
"""crash.py: what was acknowledged is there after kill -9.

    crash.py target/release/hearth homeserver.yaml --rounds 50 --seed 1

Starts the server, lets senders write into ten rooms while a watcher follows with /sync, kills the server at a random
moment, starts it again on the same files, and checks, round after round:

- every acknowledged event is read by GET /event, with its text, and is in /messages exactly once;
- a send whose answer was lost, repeated with its transaction id, gives one event and not two;
- the watcher's last token resumes: it sees every event, and none twice.

The engine is the configuration's business: give a file for SQLite or for PostgreSQL (the cluster is left alone). Address and
shared secret are read from the file's first `port:` and `registration_shared_secret:` unless given. Loopback only; every
wait is bounded. Prints one line, and up to ten faults on stderr; exit code 0: nothing lost; 1: faults; 2: could not run.
"""
import argparse
import collections
import concurrent.futures
import hashlib
import hmac
import http.client
import json
import os
import random
import re
import secrets
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.parse

ANSWER_S = 60  # longest wait for one answer
START_S = 120  # longest wait for the first answer after a start
CATCH_UP_S = 30  # how long the watcher may take to see everything after a restart


class Unavailable(Exception):
    """No answer: the server is gone, or the connection was cut."""


class Caller:
    """A kept-alive connection of one account; used by one thread at a time."""

    def __init__(self, address, token=None, user=None):
        self.address, self.token, self.user, self.connection = address, token, user, None

    def ask(self, method, path, body=None):
        """-> (status, JSON); raises Unavailable."""
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        # A server may close a connection that idles just as it is used again: then what only reads is asked anew.
        if method == "GET" and self.connection is not None:
            try:
                return self.ask_once(method, path, body, headers)
            except Unavailable:
                pass
        return self.ask_once(method, path, body, headers)

    def ask_once(self, method, path, body, headers):
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection(*self.address, timeout=ANSWER_S)
            self.connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = self.connection.getresponse()
            raw = answer.read()
            if answer.will_close:
                self.close()
            return answer.status, json.loads(raw)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise Unavailable(f"{method} {path}: {error!r}") from error

    def must(self, method, path, body=None):
        status, answer = self.ask(method, path, body)
        if status != 200:
            raise RuntimeError(f"{method} {path}: {status} {answer}")
        return answer

    def close(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None


class Server:
    """The process under test."""

    def __init__(self, command, address, log):
        self.command, self.address, self.log, self.process = command, address, log, None

    def start(self):
        """Starts it and gives the seconds until it answered."""
        begun = time.monotonic()
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL, start_new_session=True)
        caller = Caller(self.address)
        while time.monotonic() - begun < START_S:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}, see {self.log.name}")
            try:
                if caller.ask("GET", "/_matrix/client/versions")[0] == 200:
                    return time.monotonic() - begun
            except Unavailable:
                time.sleep(0.02)
        raise RuntimeError(f"no answer within {START_S} s, see {self.log.name}")

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()


def register(address, secret, name):
    path = "/_synapse/admin/v1/register"
    caller = Caller(address)
    nonce = caller.must("GET", path)["nonce"]
    password = secrets.token_hex(8)
    mac = hmac.new(secret.encode(), "\0".join([nonce, name, password, "notadmin"]).encode(), hashlib.sha1).hexdigest()
    made = caller.must("POST", path, {"nonce": nonce, "username": name, "password": password, "admin": False, "mac": mac})
    return Caller(address, made["access_token"], made["user_id"])


def room_path(room):
    return f"/_matrix/client/v3/rooms/{urllib.parse.quote(room, safe='')}"


class Ledger:
    """What the server has acknowledged, and what nobody knows of yet."""

    def __init__(self):
        self.lock = threading.Lock()
        self.acknowledged = {}  # event id -> (room, text), of this round
        self.unsure = []  # (sender, room, transaction id) whose answer was lost
        self.refused = []

    def settle(self, room, text, event_id):
        with self.lock:
            self.acknowledged[event_id] = (room, text)


def send(caller, room, text):
    """The text is the transaction id too."""
    path = f"{room_path(room)}/send/m.room.message/{urllib.parse.quote(text, safe='')}"
    return caller.ask("PUT", path, {"msgtype": "m.text", "body": text})


def keep_sending(caller, room, prefix, ledger, over):
    """One sender: one message after the other until the server is gone."""
    count = 0
    while not over.is_set():
        text = f"{prefix}-{count}"
        count += 1
        try:
            status, answer = send(caller, room, text)
        except Unavailable:
            with ledger.lock:
                ledger.unsure.append((caller, room, text))
            return
        if status == 200:
            ledger.settle(room, text, answer["event_id"])
        else:
            with ledger.lock:
                ledger.refused.append(f"{text}: {status} {answer}")
            time.sleep(0.05)


class Watcher:
    """Follows all rooms by /sync from token to token, as a client does."""

    FILTER = json.dumps({"room": {"timeline": {"limit": 1000, "types": ["m.room.message"]}, "state": {"types": []},
                                  "ephemeral": {"types": []}, "account_data": {"types": []}},
                         "presence": {"types": []}, "account_data": {"types": []}})

    def __init__(self, caller):
        self.caller, self.token = caller, None
        self.seen = collections.defaultdict(set)  # room -> event ids
        self.twice = []

    def step(self, timeout_ms):
        """One sync; the token moves on only with a whole answer."""
        query = {"timeout": timeout_ms, "filter": self.FILTER, "set_presence": "offline"}
        if self.token:
            query["since"] = self.token
        status, answer = self.caller.ask("GET", "/_matrix/client/v3/sync?" + urllib.parse.urlencode(query))
        if status != 200:
            raise RuntimeError(f"sync: {status} {answer}")
        for room, joined in answer.get("rooms", {}).get("join", {}).items():
            timeline = joined.get("timeline", {})
            ids = [event["event_id"] for event in timeline.get("events", [])]
            if timeline.get("limited") and self.token:
                self.fill(room, timeline["prev_batch"])
            self.twice += [f"{one} in {room}" for one in ids if one in self.seen[room]]
            self.seen[room].update(ids)
        self.token = answer["next_batch"]

    def fill(self, room, token):
        """Reads back from a limited timeline to what is known."""
        for _ in range(10_000):
            page = self.caller.must("GET", f"{room_path(room)}/messages?dir=b&limit=100&from={urllib.parse.quote(token, safe='')}")
            ids = [event["event_id"] for event in page["chunk"] if event["type"] == "m.room.message"]
            known = any(one in self.seen[room] for one in ids)
            self.seen[room].update(ids)
            token = page.get("end")
            if known or not token or not page["chunk"]:
                return

    def follow(self, over):
        while not over.is_set():
            try:
                self.step(1000)
            except (Unavailable, RuntimeError):
                return


def history(caller, room, until):
    """Texts and event ids of a room from its end back to the event `until` (not with it), or to its beginning."""
    token, found = None, []
    for _ in range(10_000):
        query = "dir=b&limit=200" + (f"&from={urllib.parse.quote(token, safe='')}" if token else "")
        page = caller.must("GET", f"{room_path(room)}/messages?{query}")
        for event in page["chunk"]:
            if event["event_id"] == until:
                return found
            if event["type"] == "m.room.message":
                found.append((event["event_id"], event["content"].get("body")))
        token = page.get("end")
        if not token or not page["chunk"]:
            return found
    raise RuntimeError(f"/messages of {room} does not end")


class Trial:
    def __init__(self, args, address, secret, server):
        self.args, self.address, self.server = args, address, server
        self.random = random.Random(args.seed)
        self.tag = secrets.token_hex(3)
        self.faults, self.restarts = [], []
        self.total = self.resent = 0
        server.start()
        senders = [register(address, secret, f"sender-{self.tag}-{n}") for n in range(args.senders)]
        self.watcher = Watcher(register(address, secret, f"watcher-{self.tag}"))
        self.rooms = []
        for n in range(args.rooms):
            members = senders[n::args.rooms]
            room = members[0].must("POST", "/_matrix/client/v3/createRoom", {"preset": "public_chat", "name": f"room {n}"})["room_id"]
            for member in [*members[1:], self.watcher.caller]:
                member.must("POST", f"{room_path(room)}/join", {})
            self.rooms.append((room, members))
        self.marks = {room: None for room, _ in self.rooms}  # last event of the round before
        self.watcher.step(0)

    def fault(self, text):
        self.faults.append(text)

    def load(self, number):
        """Senders and watcher at work until the kill; gives the ledger of what they were told."""
        ledger, over = Ledger(), threading.Event()
        threads = [threading.Thread(target=keep_sending, args=(member, room, f"{self.tag}-{number}-{at}-{place}", ledger, over))
                   for place, (room, members) in enumerate(self.rooms) for at, member in enumerate(members)]
        threads.append(threading.Thread(target=self.watcher.follow, args=(over,)))
        for thread in threads:
            thread.start()
        time.sleep(self.random.uniform(self.args.shortest, self.args.longest))
        self.server.kill()
        over.set()
        for thread in threads:
            thread.join(ANSWER_S + 10)
        return ledger

    def round(self, number):
        ledger = self.load(number)
        self.total += len(ledger.acknowledged)
        self.restarts.append(self.server.start())
        if ledger.refused:
            self.fault(f"round {number}: {len(ledger.refused)} sends refused, first {ledger.refused[0]}")
        # The client's own remedy for a lost answer: the same transaction again.
        for caller, room, text in ledger.unsure:
            status, answer = send(caller, room, text)
            if status != 200:
                self.fault(f"round {number}: repeating {text}: {status} {answer}")
                continue
            if answer["event_id"] in ledger.acknowledged:
                self.fault(f"round {number}: {text} got the event of another send")
            ledger.settle(room, text, answer["event_id"])
        self.resent += len(ledger.unsure)
        self.check_events(number, ledger)
        self.check_history(number, ledger)
        self.check_sync(number, ledger)

    def check_events(self, number, ledger):
        caller_of = {room: members[0] for room, members in self.rooms}
        local = threading.local()

        def read(item):
            event_id, (room, text) = item
            callers = local.__dict__.setdefault("callers", {})
            if room not in callers:
                callers[room] = Caller(self.address, caller_of[room].token)
            status, answer = callers[room].ask("GET", f"{room_path(room)}/event/{urllib.parse.quote(event_id, safe='')}")
            if status != 200:
                return f"round {number}: {event_id} ({text}) acknowledged, now {status} {answer}"
            if answer["content"].get("body") != text:
                return f"round {number}: {event_id} says {answer['content']}, not {text}"
            return None

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            self.faults += [one for one in pool.map(read, ledger.acknowledged.items()) if one]

    def check_history(self, number, ledger):
        wanted = collections.defaultdict(dict)
        for event_id, (room, text) in ledger.acknowledged.items():
            wanted[room][event_id] = text
        for room, members in self.rooms:
            found = history(members[0], room, self.marks[room])
            ids = collections.Counter(event_id for event_id, _ in found)
            texts = collections.Counter(text for _, text in found)
            for event_id, text in wanted[room].items():
                if ids[event_id] != 1:
                    self.fault(f"round {number}: {event_id} ({text}) is {ids[event_id]} times in /messages")
            for text, times in texts.items():
                if times > 1:
                    self.fault(f"round {number}: {text} became {times} events")
            strangers = [event_id for event_id, _ in found if event_id not in wanted[room]]
            if strangers:
                self.fault(f"round {number}: {len(strangers)} events in {room} that nobody was told of, first {strangers[0]}")
            if found:
                self.marks[room] = found[0][0]

    def check_sync(self, number, ledger):
        end = time.monotonic() + CATCH_UP_S

        def missing():
            return [event_id for event_id, (room, _) in ledger.acknowledged.items() if event_id not in self.watcher.seen[room]]

        while missing() and time.monotonic() < end:
            self.watcher.step(500)
        lost = missing()
        if lost:
            self.fault(f"round {number}: {len(lost)} events never came by /sync from the last token, first {lost[0]}")
        if self.watcher.twice:
            self.fault(f"round {number}: {len(self.watcher.twice)} events came twice by /sync, first {self.watcher.twice[0]}")
            self.watcher.twice = []

    def summary(self, rounds):
        return (f"crash: {rounds} rounds, seed {self.args.seed}, {self.args.senders} senders in {self.args.rooms} rooms: "
                f"{self.total} events acknowledged before a kill, {self.resent} sends repeated after, {len(self.faults)} faults; "
                f"restart {statistics.median(self.restarts):.2f} s (longest {max(self.restarts):.2f} s)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hearth", help="the binary; run as `BINARY serve -c CONFIG` unless --command says otherwise")
    parser.add_argument("config", help="homeserver.yaml, with rates high enough for the senders")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--senders", type=int, default=20)
    parser.add_argument("--rooms", type=int, default=10)
    parser.add_argument("--shortest", type=float, default=0.3, help="seconds of load before a kill, at least")
    parser.add_argument("--longest", type=float, default=2.5, help="and at most")
    parser.add_argument("--port", type=int), parser.add_argument("--secret")
    parser.add_argument("--command", default="{hearth} serve -c {config}", help="how the server is started")
    parser.add_argument("--log", default="/tmp/crash-server.log")
    parser.add_argument("--limit-minutes", type=float, default=60, help="no new round is begun after that")
    args = parser.parse_args()
    if args.senders < args.rooms:
        parser.error("every room needs a sender")

    text = open(args.config, encoding="utf-8").read()
    port = args.port or next((int(one) for one in re.findall(r"^\s*(?:-\s*)?port:\s*[\"']?(\d+)", text, re.M)), None)
    found = re.search(r"^registration_shared_secret:\s*[\"']?([^\"'\n#]+)", text, re.M)
    secret = args.secret or (found and found.group(1).strip())
    if not port or not secret:
        parser.error("no port or no registration_shared_secret in the configuration: give --port and --secret")
    command = shlex.split(args.command.format(hearth=shlex.quote(os.path.abspath(args.hearth)), config=shlex.quote(os.path.abspath(args.config))))

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    end = time.monotonic() + args.limit_minutes * 60
    done = 0
    with open(args.log, "a", encoding="utf-8") as log:
        server = Server(command, ("127.0.0.1", port), log)
        try:
            trial = Trial(args, ("127.0.0.1", port), secret, server)
            for number in range(args.rounds):
                if time.monotonic() > end:
                    trial.fault(f"only {number} of {args.rounds} rounds in {args.limit_minutes} minutes")
                    break
                trial.round(number)
                done += 1
            if trial.total < args.rounds:
                trial.fault(f"only {trial.total} events were acknowledged before a kill: too few to prove anything")
        except (RuntimeError, Unavailable, OSError) as error:
            print(f"crash: could not run (round {done}): {error}", file=sys.stderr)
            sys.exit(2)
        finally:
            server.stop()
    for one in trial.faults[:10]:
        print(f"  {one}", file=sys.stderr)
    print(trial.summary(done))
    sys.exit(1 if trial.faults else 0)


if __name__ == "__main__":
    main()
