#!/usr/bin/env python3
"""join_cost.py: what joins through another server and single messages cost two Hearths, finer than clock ticks show it.

    join_cost.py --hearth BIN [--hearth BIN ...] [--joins 6] [--messages 20] [--rounds 2] [--sqlite] [--statements] [--kind synapse]
    join_cost.py --hearth BIN --record src/store/db/rehearsal --rounds 4

Two servers as federation_load.py makes them; a user of the second joins rooms of the first, one after the other (the first
join after the start is called cold), then messages are sent and waited for. Counted by /proc/*/schedstat, in CPU ms of the
first server, the second, and PostgreSQL with all its connections. Several binaries take turns. `--statements` has PostgreSQL
tell what it is asked during the first and second join, and how long it takes. `--record` has people of both servers do what
people do first, and writes down what PostgreSQL was asked: `reading.sql` and `writing.sql`, which a start rehearses. Needs
`peers.sh setup`.
"""
import argparse
import collections
import hashlib
import hmac
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "long" / "peers"))
import servers  # noqa: E402


def cpu_ms(pid):
    """CPU time of a process, all threads, those that have ended too where the kernel tells (stat), in ms."""
    total = 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except OSError:
            pass
    return total / 1e6


def postgres(pid):
    """The process and its children."""
    found = {pid}
    for one in pathlib.Path("/proc").iterdir():
        if one.name.isdigit():
            try:
                if int((one / "stat").read_text().rsplit(")", 1)[1].split()[1]) == pid:
                    found.add(int(one.name))
            except OSError:
                pass
    return found


class Client:
    def __init__(self, server, name):
        self.base, self.token = f"http://127.0.0.1:{server.port}", None
        nonce = self.call("GET", "/_synapse/admin/v1/register")["nonce"]
        mac = hmac.new(servers.SECRET.encode(), f"{nonce}\0{name}\0pw-{name}\0notadmin".encode(), hashlib.sha1).hexdigest()
        done = self.call("POST", "/_synapse/admin/v1/register", {"nonce": nonce, "username": name, "password": f"pw-{name}", "admin": False, "mac": mac})
        self.token = done["access_token"]

    def call(self, method, path, body=None):
        request = urllib.request.Request(self.base + path, method=method, data=None if body is None else json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())


class Meter:
    def __init__(self, pair, pg):
        self.pair, self.pg = [server.process.pid for server in pair], pg

    def read(self):
        pg = {pid: cpu_ms(pid) for pid in postgres(self.pg)} if self.pg else {}
        return [cpu_ms(pid) for pid in self.pair], pg

    @staticmethod
    def between(before, after):
        own = [b - a for a, b in zip(before[0], after[0])]
        pg = sum(ms - before[1].get(pid, 0) for pid, ms in after[1].items())
        return [*own, pg]


def settled(meter):
    """Waits until nothing is done any more: what follows a join by itself is of its cost."""
    last, same = meter.read(), 0
    while same < 3:
        time.sleep(0.15)
        now = meter.read()
        same = same + 1 if sum(Meter.between(last, now)) < 0.3 else 0
        last = now
    return last


def measured(kind, work, args):
    work.mkdir()
    work.chmod(0o755)
    authority, pair, pg = servers.Authority(work), [], None
    cluster = work / "cluster"
    cluster.mkdir()
    figures = {"cold": [], "warm": [], "message": []}
    try:
        if not args.sqlite:
            servers.peers_sh("pg-start", cluster)
            os.environ["PG_DIR"] = str(cluster)
            pg = int((cluster / "pg" / "postmaster.pid").read_text(encoding="utf-8").split()[0])
        for number, name in ((21, "one"), (22, "two")):
            if not args.sqlite:
                servers.peers_sh("database", cluster, name)
            server = kind(authority, work / name, number, "sqlite" if args.sqlite else name)
            pair.append(server)
            server.start()
        one, two = pair
        maker, joiner = Client(one, "maker"), Client(two, "joiner")
        meter = Meter(pair, pg)
        rooms = [maker.call("POST", "/_matrix/client/v3/createRoom", {"preset": "public_chat"})["room_id"] for _ in range(args.joins)]
        for n, room in enumerate(rooms):
            before = settled(meter)
            if args.statements and n < 2:
                logging(cluster, True)
                before = settled(meter)
            joiner.call("POST", f"/_matrix/client/v3/join/{urllib.parse.quote(room)}?via={one.name}", {})
            after = settled(meter)
            figures["warm" if n else "cold"].append(Meter.between(before, after))
            if args.statements and n < 2:
                logging(cluster, False)
                statements(cluster, "first" if n == 0 else "second")
        since = joiner.call("GET", "/_matrix/client/v3/sync?timeout=0")["next_batch"]
        before = settled(meter)
        if args.statements:
            logging(cluster, True)
        for n in range(args.messages):
            text = f"message {n} ."
            path = f"/_matrix/client/v3/rooms/{urllib.parse.quote(rooms[-1])}/send/m.room.message/t{n}"
            maker.call("PUT", path, {"msgtype": "m.text", "body": text})
            while True:
                answer = joiner.call("GET", f"/_matrix/client/v3/sync?timeout=10000&since={since}")
                since = answer["next_batch"]
                if text in json.dumps(answer):
                    break
        after = settled(meter)
        if args.statements:
            statements(cluster, f"{args.messages} messages after the second")
        if args.messages:
            figures["message"].append([ms / args.messages for ms in Meter.between(before, after)])
    finally:
        for server in pair:
            server.stop()
        if pg:
            servers.peers_sh("pg-stop", cluster)
    return figures


def logging(cluster, on):
    words = (cluster / "pg.env").read_text(encoding="utf-8").split()
    os.environ.update(word.split("=", 1) for word in words if word.startswith("PG"))
    # PostgreSQL tells for itself what parsing, planning (`bind`) and running took.
    setting, log = "log_min_duration_statement", "0" if on else "-1"
    servers.run("/usr/lib/postgresql/15/bin/psql", "-q", "-d", "postgres", "-c", f"ALTER SYSTEM SET {setting} = '{log}'", "-c", "SELECT pg_reload_conf()")
    time.sleep(0.3)


def statements(cluster, which):
    """What was asked, by connection, in order."""
    log = cluster / "pg" / "server.log"
    text = log.read_text(encoding="utf-8", errors="replace")
    seen = statements.__dict__.setdefault("seen", 0)
    statements.seen = len(text)
    asked, took = 0, collections.Counter()
    for line in text[seen:].splitlines():
        found = re.search(r"\[(\d+)\] LOG:  duration: ([0-9.]+) ms  (parse|bind|execute|statement)[^:]*: (.*)", line)
        if not found or "ALTER SYSTEM" in line or "pg_reload_conf" in line:
            continue
        pid, ms, step, words = found.groups()
        asked += step in ("execute", "statement")
        took[step] += float(ms)
        print(f"    {pid} {step:9} {ms:>7} {words[:150]}")
    print(f"{which} join: {asked} statements; ms: {', '.join(f'{step} {ms:.1f}' for step, ms in took.items())}")


def first_steps(one, two, named):
    """What is done first on two servers: they log in, make rooms, find each other, write, read, and go."""
    maker, joiner = Client(one, "maker"), Client(two, "joiner")
    users = {client: client.call("GET", "/_matrix/client/v3/account/whoami")["user_id"] for client in (maker, joiner)}
    since = {}

    def sync(client):
        after = f"&since={since[client]}" if client in since else ""
        since[client] = client.call("GET", f"/_matrix/client/v3/sync?timeout=0{after}")["next_batch"]

    def post(client, path, body):
        return client.call("POST", f"/_matrix/client/v3/{path}", body)

    def put(client, path, body):
        return client.call("PUT", f"/_matrix/client/v3/{path}", body)

    quoted = urllib.parse.quote
    # Before either knows anything of the other.
    public = post(maker, "createRoom", {"preset": "public_chat", **({"name": "all"} if named else {})})["room_id"]
    post(joiner, f"join/{quoted(public)}?via={one.name}", {})
    time.sleep(2)
    for client, name in ((maker, "maker"), (joiner, "joiner")):
        post(client, "login", {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": name}, "password": f"pw-{name}"})
        client.call("GET", "/_matrix/client/v3/pushrules/")
        post(client, f"user/{quoted(users[client])}/filter", {"room": {"state": {"lazy_load_members": True}}})
        sync(client)
        put(client, f"profile/{quoted(users[client])}/displayname", {"displayname": name})
        post(client, "createRoom", {"preset": "private_chat", "name": "notes"})
        put(client, f"user/{quoted(users[client])}/account_data/im.vector.test", {"a": 1})
    direct = post(maker, "createRoom", {"preset": "trusted_private_chat", "is_direct": True, "invite": [users[joiner]]})["room_id"]
    time.sleep(1)
    post(joiner, f"join/{quoted(direct)}?via={one.name}", {})
    time.sleep(2)
    for room in (public, direct):
        for n, client in enumerate((maker, joiner, maker)):
            sent = put(client, f"rooms/{quoted(room)}/send/m.room.message/{n}-{room}", {"msgtype": "m.text", "body": f"text {n}"})
            time.sleep(0.5)
            for reader in (maker, joiner):
                sync(reader)
                post(reader, f"rooms/{quoted(room)}/receipt/m.read/{quoted(sent['event_id'])}", {})
        put(maker, f"rooms/{quoted(room)}/typing/{quoted(users[maker])}", {"typing": True, "timeout": 1000})
        joiner.call("GET", f"/_matrix/client/v3/rooms/{quoted(room)}/messages?dir=b&limit=20")
        joiner.call("GET", f"/_matrix/client/v3/rooms/{quoted(room)}/members")
        joiner.call("GET", f"/_matrix/client/v3/profile/{quoted(users[maker])}")
        put(joiner, f"rooms/{quoted(room)}/state/m.room.topic", {"topic": "x"}) if room == direct else None
    post(joiner, f"rooms/{quoted(public)}/leave", {})
    time.sleep(2)
    sync(maker)


def recorded(work, folder, rounds):
    """What PostgreSQL was asked, in order; what comes together in one statement of the writer is not always the same."""
    reading, writing = {}, {}
    for number in range(rounds):
        asked = asked_first(work / str(number), number % 2 == 0)
        for texts in asked.values():
            (reading if all(text.startswith("SELECT ") for text in texts) else writing).update(texts)
    folder.mkdir(exist_ok=True)
    for name, texts in (("reading", reading), ("writing", writing)):
        (folder / f"{name}.sql").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        print(f"{name}: {len(texts)} statements")


def asked_first(work, named):
    """The statements of the first steps, by connection."""
    work.mkdir(parents=True)
    work.parent.chmod(0o755)
    work.chmod(0o755)
    authority, pair, cluster = servers.Authority(work), [], work / "cluster"
    cluster.mkdir()
    servers.peers_sh("pg-start", cluster)
    try:
        os.environ["PG_DIR"] = str(cluster)
        for number, name in ((21, "one"), (22, "two")):
            servers.peers_sh("database", cluster, name)
            pair.append(servers.KINDS["hearth"](authority, work / name, number, name))
            pair[-1].start()
        # Who is logged in at a restart comes back after it.
        known = [Client(server, "known") for server in pair]
        for server in pair:
            server.stop()
            server.start()
        # What a start asks and rehearses.
        time.sleep(5)
        logging(cluster, True)
        for client in known:
            client.call("GET", "/_matrix/client/v3/sync?timeout=0")
        first_steps(*pair, named)
        logging(cluster, False)
    finally:
        for server in pair:
            server.stop()
        servers.peers_sh("pg-stop", cluster)
    asked = {}
    for line in (cluster / "pg" / "server.log").read_text(encoding="utf-8", errors="replace").splitlines():
        found = re.search(r"\[(\d+)\] LOG:  duration: [0-9.]+ ms  execute sqlx_s_\d+: (.*)", line)
        if found:
            asked.setdefault(found[1], {})[found[2]] = None
    return asked


def shown(rows):
    if not rows:
        return "–"
    mean = [sum(column) / len(rows) for column in zip(*rows)]
    return f"{sum(mean):6.2f} ({mean[0]:.2f} + {mean[1]:.2f} + PostgreSQL {mean[2]:.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hearth", action="append", default=[])
    parser.add_argument("--kind", choices=["hearth", "synapse"], default="hearth")
    parser.add_argument("--joins", type=int, default=6)
    parser.add_argument("--messages", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sqlite", action="store_true")
    parser.add_argument("--statements", action="store_true")
    parser.add_argument("--record", type=pathlib.Path)
    args = parser.parse_args()
    work = pathlib.Path(tempfile.mkdtemp(prefix="join-cost-", dir="/tmp"))
    work.chmod(0o755)
    binaries = args.hearth if args.kind == "hearth" else ["Synapse"]
    figures = {one: collections.defaultdict(list) for one in binaries}
    try:
        if args.record:
            servers.Hearth.binary = pathlib.Path(args.hearth[0]).resolve()
            recorded(work / "record", args.record, args.rounds)
            return
        for number in range(args.rounds):
            for one in binaries:
                servers.Hearth.binary = pathlib.Path(one).resolve()
                for name, rows in measured(servers.KINDS[args.kind], work / f"{number}-{pathlib.Path(one).name}", args).items():
                    figures[one][name] += rows
                    print(f"{one}: {name}: {shown(rows)}", flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for one, of in figures.items():
        print(f"\n{one}, mean of {args.rounds}")
        for name, rows in of.items():
            print(f"  {name:8} {shown(rows)}")


if __name__ == "__main__":
    main()
