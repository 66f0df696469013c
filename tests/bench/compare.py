#!/usr/bin/env python3
"""compare.py: what an operation costs on Hearth and on Synapse, in one run on one machine.

    compare.py --hearth target/release/hearth            the table goes to tests/baseline/load-DATE.md (and .jsonl)
    compare.py --calibrate                               Synapse in every seat: how far the ratios of this machine can be trusted
    compare.py --table tests/baseline/load-DATE.jsonl    the table again, from the figures kept beside it

Three seats (Synapse on PostgreSQL, Hearth on PostgreSQL, Hearth on SQLite) take turns, each time with an empty database
of a fresh cluster, the same homeserver.yaml and the same scenarios of the load tool in the same order; `--runs` rounds of
that. Set-up, PostgreSQL and configuration come from peers.sh. Everything is on loopback, every step has a time limit, and
what was started is stopped, also when the run is broken off.

Of a round: a first start makes the schema and is not counted; a second is measured and runs `auth` with the servers' own
password hashing; a third is measured and runs the rest with bcrypt at 4 rounds, so that a scenario's accounts cost little.
Scenarios of few or cheap operations are run several times, equally often on every server, and their CPU is added up,
because the smallest CPU time that can be seen is a clock tick.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PEERS = pathlib.Path(os.environ.get("PEERS", "/opt/peers"))
SECRET = "registration-secret"
TICK_S = 0.01

# Scenario of the load tool, how often it is run in a round, and by what its scale is multiplied (where the scale is only
# the number of operations).
PLAN = [("create", 1, 1), ("initial", 5, 1), ("media", 3, 3.34), ("e2ee", 1, 1), ("join", 4, 1), ("bigroom", 3, 10), ("syncidle", 2, 5),
        ("syncnews", 2, 5), ("send", 1, 1), ("fanout", 1, 3), ("history", 1, 1), ("messages", 4, 1)]

# Row: the share of Synapse's CPU that Hearth may use, 1/N, on PostgreSQL and on SQLite.
RATIOS = {
    "send": (40, 50), "send_hot": (40, 50), "fanout": (60, 60), "syncidle": (25, 25), "syncnews": (40, 40), "create": (60, 60),
    "initial": (120, 120), "join_big": (30, 30), "messages": (25, 25), "state_big": (25, 25), "members_big": (25, 25),
    "initial_big": (25, 25), "media_up": (4, 4), "media_down": (4, 4),
}
STARTUP_CPU_MS = 100
IDLE_MB, LOADED_MB = 40, 90

SEATS = ["synapse", "hearth-pg", "hearth-sqlite"]
NAMES = {"synapse": "Synapse, PostgreSQL", "hearth-pg": "Hearth, PostgreSQL", "hearth-sqlite": "Hearth, SQLite"}


def say(text):
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def peers(*args):
    done = subprocess.run([HERE / "peers.sh", *map(str, args)], capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"peers.sh {' '.join(map(str, args))}: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip()


def alive(pid):
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Seat:
    """One server with its database, from an empty folder until it is stopped."""

    def __init__(self, seat, command, work, args, deadline):
        self.seat, self.args, self.deadline = seat, args, deadline
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"{seat}-", dir=work))
        self.dir.chmod(0o755)
        self.port = int(peers("port"))
        self.base = f"http://127.0.0.1:{self.port}"
        self.database, self.pg_pid, self.pid = "sqlite", None, None
        self.lines = []
        self.start_script = self.dir / "start.sh"
        self.start_script.write_text(f"#!/bin/sh\ncd {self.dir}\nexec {command} -c {self.dir}/homeserver.yaml\n", encoding="utf-8")
        self.start_script.chmod(0o755)

    def __enter__(self):
        try:
            if self.seat != "hearth-sqlite":
                self.database = "bench"
                peers("pg-start", self.dir)
                peers("database", self.dir, self.database)
                self.pg_pid = (self.dir / "pg" / "postmaster.pid").read_text(encoding="utf-8").split()[0]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.stop()
        if self.seat != "hearth-sqlite":
            peers("pg-stop", self.dir)

    def configure(self, bcrypt):
        peers("config", self.dir, self.port, self.database, bcrypt)

    def load(self, scenario, limit_s, *more, scale=1):
        """Runs the load tool once and keeps its figures; a scenario that fails is told and leaves its row out."""
        limit_s = min(limit_s, self.deadline - time.monotonic())
        if limit_s <= 0:
            raise TimeoutError("the time for the whole comparison is over")
        out = self.dir / "out.jsonl"
        out.unlink(missing_ok=True)
        command = [PEERS / "load", "--base", self.base, "--label", self.seat, "--scenario", scenario, "--scale", f"{self.args.scale * scale:g}",
                   "--shared-secret", SECRET, "--state", self.dir / "state.json", "--out", out]
        if self.pid:
            command += ["--pid", str(self.pid)]
        if self.pg_pid:
            command += ["--pg-pid", self.pg_pid]
        with open(self.dir / "load.log", "a", encoding="utf-8") as log:
            try:
                done = subprocess.run([*map(str, command), *map(str, more)], stdout=log, stderr=log, stdin=subprocess.DEVNULL, timeout=limit_s)
                if done.returncode:
                    say(f"{self.seat}: {scenario} failed, see {log.name}")
            except subprocess.TimeoutExpired:
                say(f"{self.seat}: {scenario} broken off after {limit_s:.0f} s")
        rows = []
        if out.exists():
            rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            if row["errors"]:
                say(f"{self.seat}: {row['scenario']}: {row['errors']} errors, first: {row.get('first_error')}")
        return rows

    def start(self):
        """Starts the server and gives the figures of its start."""
        self.pid = None
        rows = self.load("startup", 150, "--start-cmd", self.start_script, "--start-log", self.dir / "server.log")
        if not rows:
            tail = (self.dir / "server.log").read_text(encoding="utf-8", errors="replace")[-2000:] if (self.dir / "server.log").exists() else ""
            raise RuntimeError(f"{self.seat} did not start\n{(self.dir / 'load.log').read_text(encoding='utf-8')[-500:]}\n{tail}")
        self.pid = rows[0]["extra"]["pid"]
        return rows

    def stop(self):
        if not self.pid:
            return
        for kind, wait_s in ((signal.SIGTERM, 40), (signal.SIGKILL, 10)):
            if not alive(self.pid):
                break
            os.kill(self.pid, kind)
            end = time.monotonic() + wait_s
            while alive(self.pid) and time.monotonic() < end:
                time.sleep(0.1)
        self.pid = None

    def round(self):
        """All scenarios once; gives the figures."""
        rows = []
        self.configure(12)
        self.start()  # makes the schema
        time.sleep(2)
        self.stop()
        rows += self.start()
        if "auth" in self.args.scenarios:
            rows += self.load("auth", 300)
        self.stop()
        self.configure(4)
        rows += self.start()
        for scenario, times, scale in PLAN:
            if scenario not in self.args.scenarios:
                continue
            begun = time.monotonic()
            for _ in range(times):
                rows += self.load(scenario, self.args.scenario_limit, scale=scale)
            say(f"{self.seat}: {scenario} in {time.monotonic() - begun:.0f} s")
        self.stop()
        return rows


def machine():
    cpu = next((line.partition(":")[2].strip() for line in open("/proc/cpuinfo", encoding="utf-8") if line.startswith("model name")), platform.machine())
    memory = next(int(line.split()[1]) for line in open("/proc/meminfo", encoding="utf-8") if line.startswith("MemTotal"))
    return f"{os.cpu_count()} cores ({cpu}), {memory / 2**20:.0f} GiB, Linux {platform.release()}"


def version(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
        return (done.stdout or done.stderr).strip().splitlines()[0]
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return "version unknown"


def per_1000(rows):
    """CPU seconds per 1,000 operations of one round's repetitions of a row, and how much of it the ticks may hide, as a share.

    User and system time of each process are rounded to ticks before and after: twice the standard deviation of the error
    is 1.2 ticks for one process, and about 4 for it and ten processes of PostgreSQL; it grows with the root of the runs.
    """
    ops = sum(row["ops"] for row in rows)
    cpu = max(sum(row["cpu_s"] + row["pg_cpu_s"] for row in rows), TICK_S)
    ticks = 4 if any(row.get("pg_pss_after_mb") for row in rows) else 1.2
    return cpu * 1000 / ops, ticks * TICK_S * len(rows) ** 0.5 / cpu


def figures(lines):
    """{row: {seat: [(CPU s per 1,000, uncertainty) of each round]}} without rows that had errors."""
    found = {}
    for line in lines:
        if line["scenario"] == "startup" or not line["ops"]:
            continue
        found.setdefault(line["scenario"], {}).setdefault(line["server"], {}).setdefault(line["run"], []).append(line)
    return {row: {seat: [per_1000(rows) for _, rows in sorted(runs.items()) if not any(one["errors"] for one in rows)]
                  for seat, runs in seats.items()} for row, seats in found.items()}


def mean(values):
    return sum(values) / len(values)


def cell(values, digits=3):
    if not values:
        return "–"
    return f"{mean(values):.{digits}g}" + (f" ({', '.join(f'{one:.{digits}g}' for one in values)})" if len(values) > 1 else "")


def verdict(good, sure=True):
    return ("met" if good else "**missed**") + ("" if sure else ", within ±")


def table(head, lines):
    out = [f"# Load: Hearth beside Synapse, {head['date']}", "", head["what"], "",
           f"- machine: {head['machine']}; load average when it began: {head['loadavg']:.2f}",
           *(f"- {name}: {text}" for name, text in head["servers"].items()),
           f"- scale {head['scale']} of the load tool, {head['runs']} rounds, seats in turn; repetitions in a round: "
           + ", ".join(f"{name} {times}" + (f" at {scale} × the scale" if scale != 1 else "") for name, times, scale in head["plan"]),
           "- figures: CPU seconds of server and PostgreSQL per 1,000 operations (milliseconds an operation), mean and (each round);"
           " × is how many times Hearth's cost Synapse's is; ± is shown where rounding to clock ticks may hide more than a tenth", "",
           "| row | Synapse | Hearth, PostgreSQL | × | goal | | Hearth, SQLite | × | goal | |", "|---|---|---|---|---|---|---|---|---|---|"]
    met = missed = 0
    for row, seats in figures(lines).items():
        goal = None if head["calibration"] else RATIOS.get(row)
        base = [value for value, _ in seats.get("synapse", [])]
        cells = [row, cell(base)]
        for number, seat in enumerate(SEATS[1:]):
            values = [value for value, _ in seats.get(seat, [])]
            doubt = mean([one for _, one in seats[seat]]) / len(values) ** 0.5 if values else 0
            cells.append(cell(values) + (f" ±{doubt:.0%}" if doubt > 0.1 else ""))
            ratio = mean(base) / mean(values) if base and values else None
            cells.append(f"{ratio:.1f}" if ratio else "–")
            cells.append(f"≥ {goal[number]}" if goal else "")
            if goal and ratio:
                met, missed = met + (ratio >= goal[number]), missed + (ratio < goal[number])
            sure = ratio and goal and not 1 / (1 + doubt) <= ratio / goal[number] <= 1 + doubt
            cells.append(verdict(ratio >= goal[number], sure) if goal and ratio else "not measured" if goal else "")
        out.append("| " + " | ".join(cells) + " |")

    starts, idle, loaded = {}, {}, {}
    for line in lines:
        if line["scenario"] == "startup":
            starts.setdefault(line["server"], []).append(line["cpu_s"] * 1000)
            idle.setdefault(line["server"], []).append(line["rss_after_mb"])
        else:
            loaded.setdefault(line["server"], {})[line["run"]] = line["rss_after_mb"]
    loaded = {seat: list(runs.values()) for seat, runs in loaded.items()}
    out += ["", "| of the process | Synapse | Hearth, PostgreSQL | | Hearth, SQLite | | goal |", "|---|---|---|---|---|---|---|"]
    for name, what, goal in (("start to first answer, CPU ms", starts, STARTUP_CPU_MS), ("resident memory idle, MB", idle, IDLE_MB),
                             ("resident memory after all this, MB", loaded, LOADED_MB)):
        cells = [name, cell(what.get("synapse", []))]
        for seat in SEATS[1:]:
            values = what.get(seat, [])
            cells.append(cell(values))
            if head["calibration"]:
                cells.append("")
                continue
            if values:
                met, missed = met + (mean(values) <= goal), missed + (mean(values) > goal)
            cells.append(verdict(mean(values) <= goal) if values else "not measured")
        out.append("| " + " | ".join([*cells, "" if head["calibration"] else f"≤ {goal}"]) + " |")

    bad = sorted({f"{line['server']} {line['scenario']} (round {line['run']}): {line['errors']} errors, {line.get('first_error', '')[:120]}"
                  for line in lines if line["errors"]})
    busy = sorted({f"{line['server']} {line['scenario']}" for line in lines
                   if (line.get("extra") or {}).get("busy_before") or (line.get("extra") or {}).get("busy_after")})
    wrong = sorted({f"{line['server']} {line['scenario']}: {line['extra']['not_as_expected']}" for line in lines
                    if (line.get("extra") or {}).get("not_as_expected")})
    if not head["calibration"]:
        out += ["", f"Goals: {met} met, {missed} missed."]
    if bad:
        out += ["", "Left out because of errors:", *(f"- {one}" for one in bad)]
    if busy:
        out += ["", "The server was still at work before or after: " + ", ".join(busy) + "."]
    if wrong:
        out += ["", "Syncs that did not show what they should: " + ", ".join(wrong) + "."]
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hearth", help="the binary to measure (a release build)")
    parser.add_argument("--calibrate", action="store_true", help="Synapse in every seat")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--scale", type=float, default=0.3)
    parser.add_argument("--seats", default=",".join(SEATS))
    parser.add_argument("--scenarios", default=",".join(["auth", *(name for name, _, _ in PLAN)]))
    parser.add_argument("--scenario-limit", type=float, default=420, help="seconds for one scenario")
    parser.add_argument("--limit-minutes", type=float, default=75, help="for everything")
    parser.add_argument("--work", default="/tmp", help="where the servers' data lies while they run; where much was deleted in the last minutes new "
                        "files are dear, since ext4 walks past every inode that was just given back")
    parser.add_argument("--out", help="the Markdown file; the figures go beside it as .jsonl")
    parser.add_argument("--table", help="only make the table of this .jsonl")
    args = parser.parse_args()
    if args.table:
        head, *lines = [json.loads(line) for line in open(args.table, encoding="utf-8")]
        print(table(head, lines), end="")
        return
    if bool(args.hearth) == args.calibrate:
        parser.error("give either --hearth BINARY or --calibrate")
    args.scenarios = args.scenarios.split(",")
    args.seats = args.seats.split(",")
    unknown = set(args.seats) - set(SEATS) | set(args.scenarios) - {"auth", *(name for name, _, _ in PLAN)}
    if unknown:
        parser.error(f"not known: {', '.join(sorted(unknown))}")
    deadline = time.monotonic() + args.limit_minutes * 60
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(143))

    peers("setup")
    synapse = f"{PEERS}/synapse/bin/python -m synapse.app.homeserver"
    synapse_version = version([str(PEERS / "synapse/bin/python"), "-c", "import synapse; print(synapse.__version__)"])
    servers = {"Synapse": f"{synapse_version}, PostgreSQL 15, C locale, fsync on, 512 MB shared buffers"}
    if args.calibrate:
        hearth, name = synapse, "calibration"
        what = "Synapse in every seat: how far from 1 the ratios of this machine are by chance alone. Nothing here is Hearth's."
    else:
        binary = pathlib.Path(args.hearth).resolve()
        hearth, name = f"{binary} serve", "load"
        what = "Each figure is of the same scenarios, configuration and machine, the servers in turn."
        servers["Hearth"] = f"{version([str(binary), 'version'])} on the same PostgreSQL settings, and on SQLite"
    head = {"calibration": args.calibrate, "date": datetime.date.today().isoformat(), "what": what, "machine": machine(), "loadavg": os.getloadavg()[0], "servers": servers,
            "scale": args.scale, "runs": args.runs, "plan": [one for one in PLAN if one[1:] != (1, 1) and one[0] in args.scenarios]}
    target = pathlib.Path(args.out or ROOT / "tests" / "baseline" / f"{name}-{head['date']}.md")
    target.parent.mkdir(parents=True, exist_ok=True)

    work = pathlib.Path(tempfile.mkdtemp(prefix="compare-", dir=args.work))
    work.chmod(0o755)
    lines, failed = [], False
    try:
        for run in range(1, args.runs + 1):
            for seat in args.seats:
                say(f"round {run}: {NAMES[seat]}")
                try:
                    with Seat(seat, synapse if seat == "synapse" else hearth, work, args, deadline) as place:
                        lines += [{**row, "run": run} for row in place.round()]
                except (RuntimeError, TimeoutError, OSError, subprocess.TimeoutExpired) as error:
                    failed = True
                    say(f"{NAMES[seat]}: {error}")
    finally:
        if lines:
            with open(target.with_suffix(".jsonl"), "w", encoding="utf-8") as file:
                file.writelines(json.dumps(one) + "\n" for one in [head, *lines])
            target.write_text(table(head, lines), encoding="utf-8")
            print(table(head, lines), end="")
            say(f"written to {target}")
        shutil.rmtree(work, ignore_errors=True)
    sys.exit(1 if failed or not lines else 0)


if __name__ == "__main__":
    main()
