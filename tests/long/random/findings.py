"""What a run finds, with the steps that led there; and how two answers are told apart.

A finding is printed when it is made: its kind, what was seen, and the last steps. Of one kind a few are shown, all are counted.
"""
import collections
import json
import threading
import time

SHOWN, STEPS, LONGEST = 3, 8, 1500


class Findings:
    def __init__(self, seed, keep=None):
        self.seed, self.step, self.kept = seed, 0, open(keep, "w", encoding="utf-8") if keep else None
        self.counts, self.seen = collections.Counter(), collections.Counter()
        self.steps, self.lock = collections.deque(maxlen=STEPS), threading.Lock()

    def note(self, what):
        """A step of the run, to be shown with what is found after it."""
        self.steps.append(f"{self.step}: {what}"[:300])
        self.keep(self.steps[-1])

    def keep(self, *what):
        """For the list of all steps, where one is kept."""
        if self.kept:
            now = time.time()
            print(f"{time.strftime('%H:%M:%S', time.gmtime(now))}.{int(now * 1000) % 1000:03}", *what, file=self.kept, flush=True)

    def report(self, kind, **seen):
        with self.lock:
            self.counts[kind] += 1
            if self.counts[kind] > SHOWN:
                return
            print(f"!! seed {self.seed}, step {self.step}: {kind}: {json.dumps(seen, default=str)[:LONGEST]}")
            if self.counts[kind] == 1:
                print("   after " + "\n         ".join(self.steps), flush=True)

    def count(self, what):
        """That something was looked at: a check that never looks finds nothing."""
        with self.lock:
            self.seen[what] += 1


def differences(one, other, path="", limit=6):
    """-> [(path, one's, other's)] of two JSON values."""
    if isinstance(one, dict) and isinstance(other, dict):
        found = []
        for key in sorted(set(one) | set(other), key=str):
            if key not in one or key not in other:
                found.append((f"{path}/{key}", shortened(one.get(key, "-")), shortened(other.get(key, "-"))))
            else:
                found += differences(one[key], other[key], f"{path}/{key}")
        return found[:limit]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [item for n, (a, b) in enumerate(zip(one, other)) for item in differences(a, b, f"{path}[{n}]")][:limit]
    return [] if one == other else [(path, shortened(one), shortened(other))]


def shortened(value):
    return json.dumps(value, default=str)[:300]
