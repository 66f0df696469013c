#!/usr/bin/env python3
"""chaos.py: three servers agree after anything, kill -9 included.

    chaos.py target/release/hearth --seeds 1..31 [--deeds 150] [--baseline tests/baseline/chaos.md]

Three real servers, each in a network namespace of its own on a bridge (so: root, Linux, `ip` and `openssl`), share a room.
Random users do random things on all of them, while pairs of servers lose sight of each other (their packets are dropped) and
servers are killed and started again. When it is over each server says something; then all must have the same current state,
the same members, and all that the users said and did who were never sent away, but for invites. What else is shown may differ
by events that a server refused to show when they came (soft failure): those are counted.

Clocks are the machine's and are not moved here; the same story in one process does that (tests/it/federation/chaos.rs).
One line a seed; exit code 0: all agree; 1: some do not (with the seed and what they differ in); 2: could not run.
Every wait is bounded, and namespaces, bridge and servers go away at the end.
"""
import argparse
import concurrent.futures
import hashlib
import hmac
import http.client
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse

NET, BRIDGE, SECRET = "10.99.77", "hearth-chaos", "registration-secret"
START_S, ANSWER_S, QUIET_S = 120, 40, 120
USERS = 3
V3 = "/_matrix/client/v3"
# What else came at the same time must not push an event out of a timeline.
ALL = '{"room":{"timeline":{"limit":1000}}}'


def run(*command, must=True):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    if must and done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


class Network:
    """A bridge with three namespaces; what runs here sees them all, whoever is cut off."""

    def __enter__(self):
        self.remove()
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "addr", "add", f"{NET}.254/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        for n in (1, 2, 3):
            space, here = f"{BRIDGE}-{n}", f"hchaos{n}"
            run("ip", "netns", "add", space)
            run("ip", "link", "add", here, "type", "veth", "peer", "name", "eth0", "netns", space)
            run("ip", "link", "set", here, "master", BRIDGE, "up")
            run("ip", "-n", space, "addr", "add", f"{NET}.{n}/24", "dev", "eth0")
            run("ip", "-n", space, "link", "set", "eth0", "up")
            run("ip", "-n", space, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_):
        self.remove()

    @staticmethod
    def remove():
        for n in (1, 2, 3):
            run("ip", "netns", "del", f"{BRIDGE}-{n}", must=False)
            run("ip", "link", "del", f"hchaos{n}", must=False)
        run("ip", "link", "del", BRIDGE, must=False)

    @staticmethod
    def cut(one, other):
        for a, b in ((one, other), (other, one)):
            run("ip", "-n", f"{BRIDGE}-{a}", "route", "replace", "blackhole", f"{NET}.{b}/32")

    @staticmethod
    def heal(one, other):
        for a, b in ((one, other), (other, one)):
            run("ip", "-n", f"{BRIDGE}-{a}", "route", "del", "blackhole", f"{NET}.{b}/32", must=False)


class Server:
    def __init__(self, binary, folder, n):
        self.binary, self.folder, self.n = binary, folder / str(n), n
        self.address = f"{NET}.{n}"
        self.name = f"{self.address}:8448"
        self.process = None
        self.folder.mkdir()
        self.certify(folder)
        (self.folder / "homeserver.yaml").write_text(f"""server_name: "{self.name}"
pid_file: {self.folder}/pid
signing_key_path: {self.folder}/signing.key
media_store_path: {self.folder}/media
report_stats: false
macaroon_secret_key: "m{n}"
registration_shared_secret: "{SECRET}"
database: {{ name: sqlite3, args: {{ database: {self.folder}/hearth.db }} }}
listeners:
  - {{ port: 8008, bind_addresses: ["{self.address}"], type: http, resources: [{{ names: [client] }}] }}
  - {{ port: 8448, bind_addresses: ["{self.address}"], tls: true, type: http, resources: [{{ names: [federation] }}] }}
tls_certificate_path: {self.folder}/tls.pem
tls_private_key_path: {self.folder}/tls.key
federation_custom_ca_list: ["{folder}/ca.pem"]
ip_range_blacklist: []
federation_ip_range_blacklist: []
trusted_key_servers: []
federation:
  client_timeout: 10s
  destination_min_retry_interval: 500
  destination_max_retry_interval: 2s
  destination_retry_multiplier: 2
rc_message: {{ per_second: 10000, burst_count: 10000 }}
rc_registration: {{ per_second: 10000, burst_count: 10000 }}
rc_joins: {{ local: {{ per_second: 10000, burst_count: 10000 }}, remote: {{ per_second: 10000, burst_count: 10000 }} }}
rc_joins_per_room: {{ per_second: 10000, burst_count: 10000 }}
rc_invites: {{ per_room: {{ per_second: 10000, burst_count: 10000 }}, per_user: {{ per_second: 10000, burst_count: 10000 }}, per_issuer: {{ per_second: 10000, burst_count: 10000 }} }}
rc_admin_redaction: {{ per_second: 10000, burst_count: 10000 }}
""", encoding="utf-8")
        self.log = open(self.folder / "server.log", "ab")

    def certify(self, folder):
        ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        if not (folder / "ca.pem").exists():
            run("openssl", "req", "-x509", *ec, "-days", "2", "-subj", "/CN=chaos", "-keyout", folder / "ca.key", "-out", folder / "ca.pem",
                "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
        here = self.folder
        (here / "ext").write_text(f"subjectAltName=IP:{self.address}\nextendedKeyUsage=serverAuth\n", encoding="utf-8")
        run("openssl", "req", *ec, "-subj", "/CN=server", "-keyout", here / "tls.key", "-out", here / "csr")
        run("openssl", "x509", "-req", "-in", here / "csr", "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", here / "ext", "-out", here / "tls.pem")

    def start(self):
        command = ["ip", "netns", "exec", f"{BRIDGE}-{self.n}", str(self.binary), "serve", "-c", str(self.folder / "homeserver.yaml")]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL, cwd=self.folder)
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if self.process.poll() is not None:
                said = pathlib.Path(self.log.name).read_text(encoding="utf-8", errors="replace")[-2000:]
                raise RuntimeError(f"server {self.n} ended with {self.process.returncode}: {said}")
            try:
                if self.ask("GET", "/_matrix/client/versions")[0] == 200:
                    return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"server {self.n} does not answer: see {self.log.name}")

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(30)

    def ask(self, method, path, body=None, token=None):
        """-> (status, JSON); OSError if there is no answer."""
        connection = http.client.HTTPConnection(self.address, 8008, timeout=ANSWER_S)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()

    def register(self, name):
        nonce = self.ask("GET", "/_synapse/admin/v1/register")[1]["nonce"]
        mac = hmac.new(SECRET.encode(), "\0".join((nonce, name, "password", "notadmin")).encode(), hashlib.sha1).hexdigest()
        body = {"nonce": nonce, "username": name, "password": "password", "admin": False, "mac": mac}
        status, answer = self.ask("POST", "/_synapse/admin/v1/register", body)
        if status != 200:
            raise RuntimeError(f"register: {status} {answer}")
        return User(self, answer["user_id"], answer["access_token"])


class User:
    count = 0

    def __init__(self, server, user_id, token):
        self.server, self.id, self.token = server, user_id, token

    def ask(self, method, path, body=None):
        return self.server.ask(method, V3 + path, body, self.token)

    def must(self, method, path, body=None):
        status, answer = self.ask(method, path, body)
        if status != 200:
            raise RuntimeError(f"{method} {path}: {status} {answer}")
        return answer

    def send(self, room, kind, content):
        User.count += 1
        return self.ask("PUT", f"/rooms/{quoted(room)}/send/{kind}/t{User.count}", content)


def quoted(text):
    return urllib.parse.quote(text, safe="")


class Life:
    def __init__(self, binary, folder, network, seed, deeds):
        self.rng, self.network, self.deeds, self.seed = random.Random(seed), network, deeds, seed
        self.servers = [Server(binary, folder, n) for n in (1, 2, 3)]
        self.said, self.kills, self.cuts, self.faults = [], 0, 0, []

    def begin(self):
        for server in self.servers:
            server.start()
        self.anchors = [server.register(f"anchor{server.n}") for server in self.servers]
        self.mortals = [server.register(f"user{server.n}{n}") for n in range(USERS) for server in self.servers]
        self.version = self.rng.choice(["6", "9", "10", "11", "12"])
        users = {u.id: 100 for u in self.anchors} | {u.id: 50 for u in self.mortals[:3]}
        if self.version == "12":
            del users[self.anchors[0].id]
        body = {"preset": "public_chat", "room_version": self.version,
                "power_level_content_override": {"users": users, "events": {"m.room.topic": 0, "org.test": 0}}}
        self.room = self.anchors[0].must("POST", "/createRoom", body)["room_id"]
        for user in self.anchors[1:] + self.mortals:
            user.must("POST", f"/join/{quoted(self.room)}?via={quoted(self.servers[0].name)}", {})

    def deed(self):
        rng, room = self.rng, quoted(self.room)
        user = rng.choice(self.anchors + self.mortals)
        whom = {"user_id": rng.choice(self.mortals).id}
        chance, n = rng.random(), rng.randrange(1_000_000)
        state = lambda kind, key, content: (user, "PUT", f"/rooms/{room}/state/{kind}/{key}", content)
        member = lambda what: (user, "POST", f"/rooms/{room}/{what}", whom)
        if chance < 0.30:
            User.count += 1
            return user, "PUT", f"/rooms/{room}/send/m.room.message/t{User.count}", {"msgtype": "m.text", "body": str(n)}
        if chance < 0.38:
            return state("m.room.topic", "", {"topic": str(n)})
        if chance < 0.48:
            return state("org.test", str(n % 4), {"n": n})
        if chance < 0.52:
            return state("m.room.join_rules", "", {"join_rule": rng.choice(["public", "public", "invite"])})
        if chance < 0.62:
            return user, "POST", f"/join/{room}", {}
        if chance < 0.68 and user not in self.anchors:
            return user, "POST", f"/rooms/{room}/leave", {}
        if chance < 0.84:
            return member(rng.choice(["kick", "kick", "ban", "ban", "unban", "invite"]))
        if chance < 0.90:
            return user, "LEVELS", whom["user_id"], rng.choice([0, 50, 50, 75])
        if chance < 0.95 and self.said:
            User.count += 1
            return user, "PUT", f"/rooms/{room}/redact/{quoted(rng.choice(self.said))}/t{User.count}", {}
        return user, "PUT", f"/profile/{quoted(user.id)}/displayname", {"displayname": f"name {n}"}

    def do(self, deed):
        user, method, path, body = deed
        try:
            if method == "LEVELS":
                of = f"/rooms/{quoted(self.room)}/state/m.room.power_levels/"
                status, levels = user.ask("GET", of)
                if status != 200:
                    return
                levels.setdefault("users", {})[path] = body
                method, path, body = "PUT", of, levels
            status, answer = user.ask(method, path, body)
        except OSError:
            return
        if status == 500:
            self.faults.append(f"{method} {path}: {answer}")
        if status == 200 and "event_id" in answer:
            self.said.append(answer["event_id"])

    def trouble(self):
        one, other = self.rng.sample((1, 2, 3), 2)
        chance = self.rng.random()
        if chance < 0.4:
            self.network.cut(one, other)
            self.cuts += 1
        elif chance < 0.75:
            self.network.heal(one, other)
        else:
            self.servers[one - 1].kill()
            self.kills += 1
            self.servers[one - 1].start()

    def live(self):
        done = 0
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            while done < self.deeds:
                many = self.rng.randint(1, 4)
                # A kill comes in the middle of what is being done.
                doing = [pool.submit(self.do, self.deed()) for _ in range(many)]
                if self.rng.random() < 0.3:
                    self.trouble()
                for one in doing:
                    one.result()
                done += many

    def last_words(self):
        for one, other in ((1, 2), (1, 3), (2, 3)):
            self.network.heal(one, other)
        for speaker in self.anchors:
            since = {u.id: u.must("GET", "/sync?timeout=0")["next_batch"] for u in self.anchors}
            status, answer = speaker.send(self.room, "m.room.message", {"msgtype": "m.text", "body": "a last word"})
            if status != 200:
                return f"{speaker.id} cannot speak: {status} {answer}"
            for hearer in self.anchors:
                if not self.hears(hearer, since[hearer.id], answer["event_id"]):
                    return f"{hearer.id} does not hear {speaker.id}"
        return None

    def hears(self, user, since, event):
        end = time.monotonic() + QUIET_S
        while time.monotonic() < end:
            sync = user.must("GET", f"/sync?timeout=5000&since={quoted(since)}&filter={quoted(ALL)}")
            room = sync.get("rooms", {}).get("join", {}).get(self.room, {})
            if any(e["event_id"] == event for e in room.get("timeline", {}).get("events", [])):
                return True
            since = sync["next_batch"]
        return False

    def timeline(self, user):
        shown, since = {}, ""
        while True:
            page = user.must("GET", f"/rooms/{quoted(self.room)}/messages?dir=b&limit=200{since}")
            shown |= {e["event_id"]: e for e in page["chunk"]}
            if "end" not in page or not page["chunk"]:
                return shown
            since = f"&from={quoted(page['end'])}"

    def difference(self):
        states = [{(e["type"], e["state_key"]): e["event_id"] for e in u.must("GET", f"/rooms/{quoted(self.room)}/state")} for u in self.anchors]
        for n, state in enumerate(states[1:], 2):
            for key in sorted(states[0].keys() | state.keys()):
                if states[0].get(key) != state.get(key):
                    return f"{key}: {states[0].get(key)} on 1, {state.get(key)} on {n}", 0
        members = [sorted(u.must("GET", f"/rooms/{quoted(self.room)}/joined_members")["joined"]) for u in self.anchors]
        if members[0] != members[1] or members[0] != members[2]:
            return f"members: {members}", 0
        shown = [self.timeline(u) for u in self.anchors]
        # All were there once the last of them was; what was before that is for those who were.
        begin = max(self.depth_of(u) for u in self.anchors)
        all_ids = set().union(*shown)
        odd = 0
        for event_id in all_ids:
            have = [n for n in range(3) if event_id in shown[n]]
            event = shown[have[0]][event_id]
            if len(have) < 3 and event["origin_server_ts"] > begin:
                odd += 1
                # Whoever joined or was banned meanwhile, as one server saw it, cannot be invited any more.
                is_invite = event["type"] == "m.room.member" and event["content"].get("membership") == "invite"
                if event["sender"] in {u.id for u in self.anchors} and not is_invite:
                    return f"{event['type']} {event_id} of {event['sender']} is shown on {[n + 1 for n in have]} only", odd
        return None, odd

    def depth_of(self, user):
        """When somebody joined."""
        for event in user.must("GET", f"/rooms/{quoted(self.room)}/state"):
            if event["type"] == "m.room.member" and event["state_key"] == user.id:
                first = event
        # Names change the member event: the first in the timeline is the join.
        joins = [e for e in self.timeline(user).values() if e.get("state_key") == user.id and e["type"] == "m.room.member"]
        return min([e["origin_server_ts"] for e in joins] or [first["origin_server_ts"]])


def one(binary, network, seed, deeds):
    """-> (line of the table, what is wrong)"""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hearth-chaos-") as folder:
        life = Life(binary, pathlib.Path(folder), network, seed, deeds)
        try:
            life.begin()
            life.live()
            wrong, odd = life.last_words(), 0
            if wrong is None:
                wrong, odd = life.difference()
            if wrong is None and life.faults:
                wrong = life.faults[0]
        finally:
            for server in life.servers:
                server.kill()
            for pair in ((1, 2), (1, 3), (2, 3)):
                network.heal(*pair)
        line = f"| {seed} | {life.version} | {deeds} | {len(life.said)} | {life.kills} | {life.cuts} | {odd} | {time.monotonic() - began:.0f} | {'agree' if wrong is None else 'DIFFER'} |"
        return line, wrong


HEAD = """| seed | version | deeds | events | kill -9 | cuts | soft-failed somewhere | s | |
|---|---|---|---|---|---|---|---|---|"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("--seeds", default="1..31", help="from..upto, the last left out")
    parser.add_argument("--deeds", type=int, default=150)
    parser.add_argument("--baseline", type=pathlib.Path, help="writes the table to this file")
    args = parser.parse_args()
    first, upto = map(int, args.seeds.split(".."))
    lines, wrong = [], 0
    print(HEAD)
    with Network() as network:
        for seed in range(first, upto):
            line, why = one(args.binary.resolve(), network, seed, args.deeds)
            print(line, flush=True)
            lines.append(line)
            if why:
                wrong += 1
                print(f"seed {seed}: {why}", file=sys.stderr, flush=True)
    if args.baseline:
        args.baseline.write_text(f"""# Three servers through chaos

`tests/long/chaos.py BINARY --seeds {args.seeds} --deeds {args.deeds}`: three servers in network namespaces, SQLite, random deeds of random users,
pairs cut off from each other, kill -9. Afterwards current state, members and what the steady users said are the same on all.

{HEAD}
""" + "\n".join(lines) + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
