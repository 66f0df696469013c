#!/usr/bin/env python3
"""random: random users on real servers, and a model of what all of them must see.

    python3 tests/long/random sync --seeds 1..10 [--steps 600] [--engine sqlite|postgres] [--binary target/debug/hearth]
    python3 tests/long/random crowd --seeds 1..10 [--steps 40]
    python3 tests/long/random federation --seeds 1..10 [--steps 500]
    python3 tests/long/random sync --seeds 1..10 --baseline tests/baseline/random.md      adds a table of the run

`sync`: one server; what each device has put together from its /sync answers, and all that can be asked about rooms, is
compared with what a member who is in every room has been told (sync/). `crowd`: the same, but all act at once. `federation`:
three servers that are killed, stopped and cut off; in the end all must tell the same (federation/). What is modelled and what
not stands at the head of each file.

The same seed does the same steps; those of a crowd and of the federation come to their servers in an order that differs from
run to run.
One line a seed, and for each finding its kind, what was seen and the last steps. Exit code 0: nothing was found; 1: something
was; 2: could not run. After --minutes no further seed or step is begun. Nothing is kept, but for each server's log and a list of
all steps with `--keep FOLDER`; python3 and openssl are all it needs, and PostgreSQL 15 for that engine.
(This folder must not become a package: the scripts beside it mean Python's own `random`.)
"""
import argparse
import pathlib
import signal
import sys
import time
import traceback

from baseline import add_table
from federation.run import FederationLife
from findings import Findings
from sync.crowd import CrowdLife
from sync.run import SyncLife
from world import World, servers

LIVES = {"sync": (SyncLife, 600), "crowd": (CrowdLife, 40), "federation": (FederationLife, 500)}


def seeds_of(text):
    first, _, last = text.partition("..")
    return range(int(first), int(last or first) + 1)


def live(world, kind, seed, steps, end):
    """One seed; its findings, and how far it came."""
    findings = Findings(seed, world.keep and world.keep / f"steps-{seed}.txt")
    begun = time.monotonic()
    life = kind(world, findings)
    try:
        done = life.live(steps, end)
        for server in world.running:
            for line in server.complaints()[:3]:
                findings.report("log", server=server.name, line=line)
    finally:
        world.clear()
    seen = ", ".join(f"{count} {what}" for what, count in sorted(findings.seen.items()))
    found = ", ".join(f"{count} x {what}" for what, count in sorted(findings.counts.items())) or "nothing"
    print(f"seed {seed}: {done} steps in {time.monotonic() - begun:.0f} s; {seen}; found: {found}", flush=True)
    return seed, done, seen, found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=LIVES)
    parser.add_argument("--seeds", default="1..10")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--engine", default="sqlite", choices=["sqlite", "postgres"])
    parser.add_argument("--binary", default=str(servers.Hearth.binary))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--baseline", type=pathlib.Path)
    parser.add_argument("--keep", type=pathlib.Path)
    args = parser.parse_args()
    kind, steps = LIVES[args.what]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rows, end = [], time.monotonic() + args.minutes * 60
    try:
        if args.keep:
            args.keep.mkdir(parents=True, exist_ok=True)
        with World(args.binary, args.engine, args.keep) as world:
            for seed in seeds_of(args.seeds):
                if time.monotonic() > end:
                    break
                rows.append(live(world, kind, seed, args.steps or steps, end))
            version = servers.run(args.binary, "version").decode().splitlines()[0].strip()
    except Exception:  # of the tester, or for want of something: no finding
        traceback.print_exc()
        return 2
    if args.baseline:
        add_table(args.baseline, args.what, version, args.engine, rows)
    return 1 if any(found != "nothing" for *_, found in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
