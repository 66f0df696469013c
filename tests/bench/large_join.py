#!/usr/bin/env python3
"""large_join.py: what it costs a server to join a large room of another, and how soon the room is of use.

    large_join.py target/bench/hearth [--members 10000] [--state 12000] [--runs 3] [--baseline tests/baseline/large-join.md]

Two real servers of this binary on loopback addresses (so: Linux, `openssl`), SQLite each. On one a room is filled with guests and
with other state; then somebody of the other joins. Of the server that joins, the CPU time (its own and the kernel's for it)
and the time on the wall are taken when the room can be used: the join is answered, a lazy sync shows it, a message has gone
out and been seen, and one has come in and been seen; and again when all of its state is there (`/members` is answered). The
memory is the greatest it had resident from the join on, less what it had before it. In a last round the server that joins is
killed (-9) as soon as the room can be used, and started again: the room must become whole all the same.

The goals: usable within 3 s of CPU, complete within 10 s, 150 MB. Exit code 0: reached; 1: not; 2: could not run.
"""
import argparse
import concurrent.futures
import http.client
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse

V3 = "/_matrix/client/v3"
START_S, ANSWER_S = 60, 600
USABLE_CPU_S, COMPLETE_S, MEMORY_MB = 3, 10, 150
LAZY = json.dumps({"room": {"state": {"lazy_load_members": True}, "timeline": {"lazy_load_members": True, "limit": 20}}})
TICK = os.sysconf("SC_CLK_TCK")


def say(text):
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def run(*command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


def quoted(text):
    return urllib.parse.quote(text, safe="")


class Server:
    def __init__(self, binary, folder, n):
        self.binary, self.folder, self.address = binary, folder / str(n), f"127.0.0.{60 + n}"
        self.name, self.process = f"{self.address}:18448", None
        self.folder.mkdir()
        ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        ca, here = folder / "ca.pem", self.folder
        if not ca.exists():
            run("openssl", "req", "-x509", *ec, "-days", "2", "-subj", "/CN=bench", "-keyout", folder / "ca.key", "-out", ca,
                "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
        (here / "ext").write_text(f"subjectAltName=IP:{self.address}\nextendedKeyUsage=serverAuth\n", encoding="utf-8")
        run("openssl", "req", *ec, "-subj", "/CN=server", "-keyout", here / "tls.key", "-out", here / "csr")
        run("openssl", "x509", "-req", "-in", here / "csr", "-CA", ca, "-CAkey", folder / "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", here / "ext", "-out", here / "tls.pem")
        free = "{ per_second: 1000000, burst_count: 1000000 }"
        (here / "homeserver.yaml").write_text(f"""server_name: "{self.name}"
pid_file: {here}/pid
signing_key_path: {here}/signing.key
media_store_path: {here}/media
report_stats: false
macaroon_secret_key: "m{n}"
enable_registration: true
enable_registration_without_verification: true
allow_guest_access: true
database: {{ name: sqlite3, args: {{ database: {here}/hearth.db }} }}
listeners:
  - {{ port: 18008, bind_addresses: ["{self.address}"], type: http, resources: [{{ names: [client] }}] }}
  - {{ port: 18448, bind_addresses: ["{self.address}"], tls: true, type: http, resources: [{{ names: [federation] }}] }}
tls_certificate_path: {here}/tls.pem
tls_private_key_path: {here}/tls.key
federation_custom_ca_list: ["{ca}"]
ip_range_blacklist: []
federation_ip_range_blacklist: []
trusted_key_servers: []
rc_message: {free}
rc_registration: {free}
rc_joins: {{ local: {free}, remote: {free} }}
rc_joins_per_room: {free}
""", encoding="utf-8")

    def start(self):
        log = open(self.folder / "server.log", "ab")
        command = [str(self.binary), "serve", "-c", str(self.folder / "homeserver.yaml")]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder)
        end = time.monotonic() + START_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if self.ask("GET", "/_matrix/client/versions")[0] == 200:
                    return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(pathlib.Path(log.name).read_text(encoding="utf-8", errors="replace")[-2000:])

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(30)

    def ask(self, method, path, body=None, token=None, connection=None):
        connection = connection or http.client.HTTPConnection(self.address, 18008, timeout=ANSWER_S)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(str(error)) from error

    def must(self, *asked, **more):
        status, answer = self.ask(*asked, **more)
        if status != 200:
            raise RuntimeError(f"{asked[:2]}: {status} {answer}")
        return answer

    def register(self, name):
        body = {"username": name, "password": "a long password", "auth": {"type": "m.login.dummy"}}
        return self.must("POST", f"{V3}/register", body)["access_token"]

    def cpu(self):
        """Seconds of user and system time so far."""
        stat = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / TICK

    def memory(self, which):
        """VmRSS or VmHWM, in MB."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(which)) / 1024

    def forget_peak(self):
        pathlib.Path(f"/proc/{self.process.pid}/clear_refs").write_text("5", encoding="ascii")


def fill(server, members, state):
    """-> the token of the room's creator, and the room."""
    token = server.register("creator")
    room = server.must("POST", f"{V3}/createRoom", {
        "preset": "public_chat", "name": "A large room",
        "initial_state": [{"type": "m.room.guest_access", "state_key": "", "content": {"guest_access": "can_join"}}],
    }, token)["room_id"]

    def some(count, what):
        connection = http.client.HTTPConnection(server.address, 18008, timeout=ANSWER_S)
        for n in count:
            what(n, connection)
        connection.close()

    def join(_, connection):
        guest = server.must("POST", f"{V3}/register?kind=guest", {}, connection=connection)["access_token"]
        server.must("POST", f"{V3}/join/{quoted(room)}", {}, guest, connection=connection)

    def set_state(n, connection):
        content = {"n": n, "text": "state that is not a member"}
        server.must("PUT", f"{V3}/rooms/{quoted(room)}/state/org.example.state/{n}", content, token, connection=connection)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for count, what in ((members - 1, join), (state - members, set_state)):
            for done in [pool.submit(some, range(start, count, 8), what) for start in range(8)]:
                done.result()
    return token, room


def see(server, token, room, since, body):
    """Syncs until a message is there; -> where the next sync begins."""
    end = time.monotonic() + ANSWER_S
    while time.monotonic() < end:
        sync = server.must("GET", f"{V3}/sync?timeout=5000&filter={quoted(LAZY)}{since}", None, token)
        since = f"&since={quoted(sync['next_batch'])}"
        events = sync.get("rooms", {}).get("join", {}).get(room, {}).get("timeline", {}).get("events", [])
        if any(e["content"].get("body") == body for e in events):
            return since
    raise RuntimeError(f"{body} is not seen")


def measure(binary, folder, resident, creator, room, n, kill=False):
    joiner = Server(binary, folder, n)
    joiner.start()
    try:
        user = joiner.register("newcomer")
        since = see_nothing(joiner, user)
        there = see_nothing(resident, creator)
        joiner.forget_peak()
        memory, cpu, begun = joiner.memory("VmRSS"), joiner.cpu(), time.monotonic()
        joiner.must("POST", f"{V3}/join/{quoted(room)}?via={quoted(resident.name)}", {}, user)
        joined = (joiner.cpu() - cpu, time.monotonic() - begun)
        send = f"{V3}/rooms/{quoted(room)}/send/m.room.message/m{n}"
        joiner.must("PUT", send, {"msgtype": "m.text", "body": f"out {n}"}, user)
        see(resident, creator, room, there, f"out {n}")
        resident.must("PUT", send, {"msgtype": "m.text", "body": f"in {n}"}, creator)
        see(joiner, user, room, since, f"in {n}")
        usable = (joiner.cpu() - cpu, time.monotonic() - begun)
        if kill:
            joiner.stop()
            joiner.start()
            cpu, begun = 0, time.monotonic()
        members = joiner.must("GET", f"{V3}/rooms/{quoted(room)}/members?membership=join", None, user)["chunk"]
        complete = (joiner.cpu() - cpu, time.monotonic() - begun)
        time.sleep(1)
        return {"members": len(members), "joined": joined, "usable": usable, "complete": complete,
                "settled": (joiner.cpu() - cpu, time.monotonic() - begun), "memory": joiner.memory("VmHWM") - memory}
    finally:
        joiner.stop()


def see_nothing(server, token):
    sync = server.must("GET", f"{V3}/sync?timeout=0&filter={quoted(LAZY)}", None, token)
    return f"&since={quoted(sync['next_batch'])}"


def table(figures, members, state):
    lines = [f"# A room of {members:,} members and {state:,} pieces of state, joined", "",
             f"`tests/bench/large_join.py`, {len(figures)} runs on {os.cpu_count()} cores of a busy machine ({platform.machine()}, "
             f"Linux), SQLite, both servers on loopback; the server that joins. Middle of the runs, worst in brackets.", "",
             "| | CPU s | wall s | goal |", "|---|---|---|---|"]

    def row(what, key, goal):
        cpu, wall = ([f[key][i] for f in figures] for i in (0, 1))
        middle = lambda all: sorted(all)[len(all) // 2]
        lines.append(f"| {what} | {middle(cpu):.2f} ({max(cpu):.2f}) | {middle(wall):.2f} ({max(wall):.2f}) | {goal} |")
    row("the join is answered", "joined", "")
    row("a message is out and one is in", "usable", f"{USABLE_CPU_S} s of CPU")
    row("all of the state is there (`/members`)", "complete", f"{COMPLETE_S} s")
    row("a second later", "settled", "")
    memory = [f["memory"] for f in figures]
    lines += ["", f"Memory: {sorted(memory)[len(memory) // 2]:.0f} MB more at most ({max(memory):.0f}); the goal is {MEMORY_MB} MB.", ""]
    return "\n".join(lines)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("hearth", type=pathlib.Path)
    options.add_argument("--members", type=int, default=10_000)
    options.add_argument("--state", type=int, default=12_000)
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--baseline", type=pathlib.Path)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="large-join-") as folder:
        folder = pathlib.Path(folder)
        resident = Server(asked.hearth.resolve(), folder, 1)
        try:
            resident.start()
            say(f"filling a room with {asked.members} members")
            creator, room = fill(resident, asked.members, asked.state)
            figures = []
            for n in range(asked.runs):
                figures.append(measure(asked.hearth.resolve(), folder, resident, creator, room, n + 2))
                say(json.dumps(figures[-1]))
            killed = measure(asked.hearth.resolve(), folder, resident, creator, room, asked.runs + 2, kill=True)
            say(f"killed, then whole with {killed['members']} members after {killed['complete'][1]:.1f} s")
            if killed["members"] < asked.members:
                raise RuntimeError("members are missing after a kill")
        finally:
            resident.stop()
    text = table(figures, asked.members, asked.state)
    print(text)
    if asked.baseline:
        asked.baseline.write_text(text, encoding="utf-8")
    reached = all(f["usable"][0] <= USABLE_CPU_S and f["complete"][1] <= COMPLETE_S and f["memory"] <= MEMORY_MB for f in figures)
    sys.exit(0 if reached else 1)


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        say(f"could not run: {error}")
        sys.exit(2)
