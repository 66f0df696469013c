#!/usr/bin/env python3
"""peers: Hearth with real servers, Synapse and Dendrite, over TLS on loopback.

    python3 tests/long/peers                                    Hearth and Synapse, all room versions, both ways
    python3 tests/long/peers --peer dendrite --versions 10,11
    python3 tests/long/peers --only 'knock|restricted' --versions 10 --ways hearth
    python3 tests/long/peers --out tests/baseline/peers.md      the table, also if something failed
    python3 tests/long/peers --list

Servers are started from empty folders with certificates of one authority; users are made, and what one does is waited for
on the other side, never longer than a bound. `--ways hearth` means rooms made by Hearth and joined by the peer, `peer` the
opposite. Scenarios that cut or kill servers run alone, the others a few at a time. What is known to fail because of the
peer stands in known.json with the reason, and does not make the run fail; if it succeeds, that is told.

Needs: target/debug/hearth (or --hearth), openssl, peers.sh's Synapse in $PEERS/synapse (peers.sh setup) or Dendrite v0.15.2
in $PEERS/dendrite/bin (go build of its cmd/dendrite). One line a scenario; exit code 0: all as known; 1: not; 2: could not run.
"""
import argparse
import concurrent.futures
import datetime
import json
import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback

import devices  # noqa: F401  (fills plan.ALL, as do the three below)
import membership  # noqa: F401
import talk  # noqa: F401
import trouble  # noqa: F401
from client import Failed
from plan import ALL, ROOM_VERSIONS, World
from servers import KINDS, Authority, Hearth, peers_sh, run

HERE = pathlib.Path(__file__).resolve().parent
PRINTING = threading.Lock()


class Outcome:
    def __init__(self, scenario, version, way, seconds, reason):
        self.scenario, self.version, self.way, self.seconds, self.reason = scenario, version, way, seconds, reason
        self.known = None


def act(one, version, way, world):
    begun = time.monotonic()
    try:
        one.act(world)
        reason = None
    except Failed as failed:
        reason = str(failed)
    except Exception as error:  # a fault of the scenario or an answer of unforeseen form: told as a failure, with its place
        frame = next((one for one in reversed(traceback.extract_tb(error.__traceback__)) if str(HERE) in one.filename), None)
        reason = f"{error!r} ({pathlib.Path(frame.filename).name}:{frame.lineno})" if frame else repr(error)
    return Outcome(one, version, way, time.monotonic() - begun, reason)


def label(outcome, kinds):
    maker, other = kinds if outcome.way == "hearth" else kinds[::-1]
    return f"{outcome.scenario.name}{f', v{outcome.version}' if outcome.scenario.versioned else ''}, {maker} → {other}"


def known_reason(known, peer, outcome):
    for one in known.get(peer, []):
        if (re.fullmatch(one["scenario"], outcome.scenario.name) and outcome.version in one.get("versions", [outcome.version])
                and one.get("way", outcome.way) == outcome.way):
            return one["reason"]
    return None


def trials(args, servers, context):
    """-> (alone, world's arguments) in the order to run."""
    todo = []
    for version in args.versions:
        for one in ALL:
            if not re.search(args.only, one.name) or (args.skip and re.search(args.skip, one.name)) or int(version) < one.since:
                continue
            if not one.versioned and version != args.versions[0]:
                continue
            for way in args.ways:
                here, there = servers if way == "hearth" else servers[::-1]
                todo.append((one, version, way, World(here, there, version, context)))
    return todo


def with_peer(args, peer, work, known):
    """All scenarios with one kind of peer; gives the outcomes."""
    authority = Authority(work)
    servers, outcomes = [], []
    try:
        for number, kind in ((11, Hearth), (12, KINDS[peer])):
            database = "sqlite"
            if args.postgres and kind.kind != "Dendrite":
                database = kind.kind.lower()
                folder = work / f"{database}-pg"
                folder.mkdir()
                peers_sh("pg-start", folder)
                servers.append(folder)
                peers_sh("database", folder, database)
                os.environ["PG_DIR"] = str(folder)
            server = kind(authority, work / kind.kind.lower(), number, database)
            servers.append(server)
            server.start()
        two = [one for one in servers if not isinstance(one, pathlib.Path)]
        kinds = [one.kind for one in two]

        def done(outcome):
            outcome.known = known_reason(known, peer, outcome)
            outcomes.append(outcome)
            text = "ok" if outcome.reason is None else f"failed: {outcome.reason}"
            if outcome.known:
                text = f"known ({outcome.known}): {outcome.reason}" if outcome.reason else f"ok, though known to fail: {outcome.known}"
            with PRINTING:
                print(f"{outcome.seconds:6.1f} s  {label(outcome, kinds)}: {text}", flush=True)

        todo = trials(args, two, authority.context())
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            for one in concurrent.futures.as_completed([pool.submit(act, *trial) for trial in todo if not trial[0].alone]):
                done(one.result())
        for trial in todo:
            if trial[0].alone:
                done(act(*trial))
                trial[3].partition(False)
                for server in two:
                    if server.process.poll() is not None:
                        server.start()
    finally:
        for one in reversed(servers):
            if isinstance(one, pathlib.Path):
                peers_sh("pg-stop", one)
            else:
                one.stop()
    return outcomes


def table(head, outcomes):
    """Scenarios as rows, room versions and ways as columns."""
    out = [f"# Hearth with other servers, {datetime.date.today().isoformat()}", "", *head, "",
           "`→`: Hearth made the room and the peer came; `←`: the peer made it. *n*: see the reason with that number below.", ""]
    for peer, found in outcomes.items():
        versions = sorted({one.version for one in found if one.scenario.versioned}, key=int)
        good = sum(one.reason is None for one in found)
        out += [f"## {KINDS[peer].kind}: {good} of {len(found)} good", "", "| scenario | " + " | ".join(f"v{one}" for one in versions) + " |", "|---" * (len(versions) + 1) + "|"]
        reasons = []
        for one in ALL:
            cells = []
            for version in versions or [""]:
                of = {item.way: item for item in found if item.scenario is one and (item.version == version or not one.versioned)}
                if not one.versioned and version != (versions or [""])[0]:
                    cells.append("″" if of else "")
                    continue
                marks = []
                for way, arrow in (("hearth", "→"), ("peer", "←")):
                    if way not in of:
                        continue
                    item = of[way]
                    if item.reason:
                        text = f"{'the peer: ' + item.known + ' — ' if item.known else ''}{item.reason}"
                        if text not in reasons:
                            reasons.append(text)
                        marks.append(f"{arrow} **{'peer' if item.known else 'failed'}** {reasons.index(text) + 1}")
                    else:
                        marks.append(f"{arrow} ok")
                cells.append(" ".join(marks) or "–")
            if any(item.scenario is one for item in found):
                out.append(f"| {one.name} | " + " | ".join(cells) + " |")
        out += ["", *(f"{n}. {reason}" for n, reason in enumerate(reasons, 1)), ""]
    return "\n".join(out).rstrip() + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default="synapse", help="synapse, dendrite, hearth (another one), or several with commas")
    parser.add_argument("--hearth", default=str(Hearth.binary))
    parser.add_argument("--versions", default=",".join(ROOM_VERSIONS))
    parser.add_argument("--ways", default="hearth,peer")
    parser.add_argument("--only", default="", help="a regular expression on names of scenarios")
    parser.add_argument("--skip", default="")
    parser.add_argument("--jobs", type=int, default=3, help="scenarios at a time")
    parser.add_argument("--postgres", action="store_true", help="Hearth and Synapse on PostgreSQL, a cluster each")
    parser.add_argument("--out", help="the table, as Markdown")
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and databases")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    if args.list:
        print("\n".join(one.name for one in ALL))
        return 0
    args.versions, args.ways = args.versions.split(","), args.ways.split(",")
    Hearth.binary = pathlib.Path(args.hearth).resolve()
    known = json.loads((HERE / "known.json").read_text(encoding="utf-8"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    outcomes, work = {}, pathlib.Path(tempfile.mkdtemp(prefix="peers-", dir="/tmp"))
    work.chmod(0o755)
    begun, failed = time.monotonic(), False
    try:
        for peer in args.peer.split(","):
            folder = work / f"with-{peer}"
            folder.mkdir()
            folder.chmod(0o755)
            outcomes[peer] = with_peer(args, peer, folder, known)
            failed |= any(one.reason and not one.known for one in outcomes[peer])
    except (RuntimeError, OSError) as error:
        print(f"peers: could not run: {error}", file=sys.stderr)
        args.keep = True
        return 2
    finally:
        if args.out and outcomes:
            engine = "PostgreSQL" if args.postgres else "SQLite"
            version = run(Hearth.binary, "version").decode().strip().splitlines()[0]
            head = [f"{version} on {engine}; {(time.monotonic() - begun) / 60:.0f} minutes, {args.jobs} scenarios at a time."]
            pathlib.Path(args.out).write_text(table(head, outcomes), encoding="utf-8")
        if args.keep or failed:
            print(f"peers: kept {work}", file=sys.stderr)
        else:
            shutil.rmtree(work, ignore_errors=True)
    good = sum(one.reason is None for found in outcomes.values() for one in found)
    print(f"peers: {good} of {sum(map(len, outcomes.values()))} good in {(time.monotonic() - begun) / 60:.0f} minutes")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
