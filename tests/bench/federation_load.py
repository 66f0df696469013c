#!/usr/bin/env python3
"""federation_load.py: what federation costs two Hearths and two Synapses, in one run on one machine.

    federation_load.py --hearth target/release/hearth [--runs 2] [--times 2] [--out tests/baseline/federation-load.md]

Two servers of a kind, each with a database of its own in one fresh PostgreSQL cluster, speak TLS on loopback (set up as for
tests/long/peers). The load tool has a user of the one join a room of the other and watches there what is said here: one message
after the other, then many at once. Counted is the CPU of both servers and of PostgreSQL; kinds take turns, `--runs` rounds of
that, `--times` times the scenario in each. Needs what compare.py needs (`peers.sh setup`). Exit code 0: all goals are reached;
1: not; 2: could not run.
"""
import argparse
import datetime
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "long" / "peers"))
sys.path.insert(0, str(ROOT / "tests" / "bench"))
import compare  # noqa: E402
import servers  # noqa: E402

GOALS = {"fed_join": 25, "fed_latency": 40, "fed_burst": 40}
TICK_S = 0.01


def measured(kind, work, args):
    """The load tool's figures of one pair of servers."""
    work.mkdir()
    work.chmod(0o755)
    authority, pair, rows = servers.Authority(work), [], []
    cluster = work / "cluster"
    cluster.mkdir()
    servers.peers_sh("pg-start", cluster)
    os.environ["PG_DIR"] = str(cluster)
    try:
        for number, name in ((21, "one"), (22, "two")):
            servers.peers_sh("database", cluster, name)
            server = kind(authority, work / name, number, name)
            pair.append(server)
            server.start()
        pg_pid = (cluster / "pg" / "postmaster.pid").read_text(encoding="utf-8").split()[0]
        for _ in range(args.times):
            out = work / "out.jsonl"
            out.unlink(missing_ok=True)
            one, two = pair
            command = [servers.PEERS / "load", "--base", f"http://127.0.0.1:{one.port}", "--base2", f"http://127.0.0.1:{two.port}", "--pid", f"{one.process.pid},{two.process.pid}",
                       "--pid2", two.process.pid, "--pg-pid", pg_pid, "--scenario", "federation", "--scale", args.scale, "--label", kind.kind,
                       "--shared-secret", servers.SECRET, "--out", out]
            subprocess.run([str(part) for part in command], timeout=600, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            rows += [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    finally:
        for server in pair:
            server.stop()
        servers.peers_sh("pg-stop", cluster)
    return rows


def per_operation(rows):
    """{scenario: CPU ms an operation of both servers and PostgreSQL}"""
    found = {}
    for name in GOALS:
        of = [row for row in rows if row["scenario"] == name and not row["errors"]]
        if of:
            # Until nothing is done any more; `cpu2_s`, a part of `cpu_s`, only until the last answer.
            cpu = sum(row["cpu_s"] + row["pg_cpu_s"] for row in of)
            found[name] = max(cpu, TICK_S) * 1000 / sum(row["ops"] for row in of)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hearth", required=True)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1)
    parser.add_argument("--out")
    args = parser.parse_args()
    servers.peers_sh("setup")
    servers.Hearth.binary = pathlib.Path(args.hearth).resolve()
    work = pathlib.Path(tempfile.mkdtemp(prefix="federation-load-", dir="/tmp"))
    work.chmod(0o755)
    figures = {"Synapse": [], "Hearth": []}
    load = os.getloadavg()[0]
    try:
        for run in range(args.runs):
            for kind in (servers.Synapse, servers.Hearth):
                compare.say(f"round {run + 1}: {kind.kind}")
                figures[kind.kind].append(per_operation(measured(kind, work / f"{kind.kind}-{run}", args)))
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        compare.say(str(error))
        sys.exit(2)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    out = [f"# Federation beside Synapse, {datetime.date.today().isoformat()}", "",
           "Two servers of a kind over TLS on loopback, on PostgreSQL 15; CPU milliseconds an operation of both servers and PostgreSQL, mean and (each round).", "",
           f"- machine: {compare.machine()}; load average when it began: {load:.2f}",
           f"- {args.runs} rounds in turn, the scenario {args.times} times in each, scale {args.scale:g}", "",
           "| row | Synapse ↔ Synapse | Hearth ↔ Hearth | × | goal | |", "|---|---|---|---|---|---|"]
    reached = True
    for name, goal in GOALS.items():
        values = {kind: [one[name] for one in rounds if name in one] for kind, rounds in figures.items()}
        ratio = compare.mean(values["Synapse"]) / compare.mean(values["Hearth"]) if all(values.values()) else None
        good = ratio is not None and ratio >= goal
        reached &= good
        out.append(f"| {name} | {compare.cell(values['Synapse'])} | {compare.cell(values['Hearth'])} | {f'{ratio:.1f}' if ratio else '–'} | ≥ {goal} | {compare.verdict(good)} |")
    text = "\n".join(out) + "\n"
    print(text, end="")
    if args.out:
        pathlib.Path(args.out).write_text(text, encoding="utf-8")
    sys.exit(0 if reached else 1)


if __name__ == "__main__":
    main()
