"""One life of one server in which all act at the same moment, round after round, while watching devices sync; at times the server
is killed in the middle of a round. Between rounds all is quiet, and compared as in run.py.

Modelled beside that: a watching device is told each event that its user may see, once, however its syncs fall between what
happens. Left out are deeds whose outcome depends on who comes first (who may join is not judged, and nobody renames themselves) and
upgrades, which may fork a room: then /messages has another order than the stream that tells the truth. The order in which deeds
come to the server is another in each run, so a seed does not repeat what it found.
"""
import collections
import random
import threading

from asking import CLIENT, GONE
from sync import deeds_account, deeds_rooms, deeds_talk
from sync.run import WHOLE, SyncLife
from sync.truth import gap

DEEDS_EACH, WATCHERS, CHECK_EVERY = 6, 4, 5


def comes(life, user):
    user.ask("POST", deeds_rooms.at(life.some_room()) + "/join", {})


DEEDS = [comes, comes, comes, deeds_rooms.creates, deeds_rooms.leaves, deeds_rooms.kicks, deeds_rooms.bans, deeds_rooms.unbans, deeds_rooms.invites,
         deeds_rooms.sets_state, deeds_rooms.sets_state, deeds_rooms.sets_levels, deeds_talk.says, deeds_talk.says, deeds_talk.says, deeds_talk.edits,
         deeds_talk.reacts, deeds_talk.replies_in_thread, deeds_talk.redacts, deeds_talk.reads, deeds_talk.reads, deeds_talk.types,
         deeds_account.keeps_data, deeds_account.tags, deeds_account.changes_push_rules]


class Watcher:
    """A device that syncs all the time."""

    def __init__(self, life, user, number):
        self.life, self.user, self.token = life, user, user.login(f"watches{number}")
        self.since, self.seen, self.rooms = None, collections.Counter(), set()
        self.sync()
        self.base = {room.id: len(room.events) for room in life.truth.rooms.values()}
        self.seen.clear()

    def sync(self):
        status, answer = self.life.line.ask("GET", CLIENT + "/sync", token=self.token, timeout=0, filter=WHOLE, since=self.since)
        if status != 200:
            self.life.findings.report("a watcher's /sync", user=self.user.id, status=status, answer=answer)
            return
        for section in ("join", "leave"):
            for room_id, shown in answer.get("rooms", {}).get(section, {}).items():
                self.take(room_id, shown["timeline"])
        self.rooms = (self.rooms | set(answer.get("rooms", {}).get("join", {}))) - set(answer.get("rooms", {}).get("leave", {}))
        self.since = answer["next_batch"]

    def take(self, room_id, timeline):
        events = timeline["events"]
        if timeline["limited"]:
            since = self.since if room_id in self.rooms else None
            events = gap(self.life.line, self.token, room_id, timeline["prev_batch"], since) + events
        self.seen.update(event["event_id"] for event in events)

    def check(self):
        for _ in range(2):
            self.sync()
        for room in self.life.truth.joined(self.user.id):
            memberships = room.memberships(self.user.id)
            out = max((n for n, what in memberships if what != "join"), default=-1)
            entered = next(n for n, _ in memberships if n > out)
            begun = max(self.base.get(room.id, 0), entered)
            want = [event.id for event in self.life.visible[room.id, self.user.id] if room.places[event.id] >= begun]
            missing = [event_id for event_id in want if event_id not in self.seen]
            # Who came back is told the room from its start.
            twice = [event_id for event_id in want if self.seen[event_id] > 1 and entered < self.base.get(room.id, 0)]
            if missing or twice:
                self.life.findings.report("what a watcher is told", user=self.user.id, room=room.id, missing=missing[:5], twice=twice[:5], own=memberships)


class CrowdLife(SyncLife):
    check_every = CHECK_EVERY

    def begin(self):
        super().begin()
        self.watchers = [Watcher(self, self.users[n], n) for n in range(WATCHERS)]

    def step(self):
        rounds = [threading.Thread(target=self.act, args=(user, random.Random(self.rng.random()))) for user in self.users]
        is_over = threading.Event()
        watching = [threading.Thread(target=self.watch, args=(watcher, is_over)) for watcher in self.watchers]
        for thread in rounds + watching:
            thread.start()
        if self.rng.random() < 0.25:
            self.findings.note("kill -9")
            self.findings.count("kills")
            self.server.kill()
            self.server.start()
            self.line.begin_anew()
        for thread in rounds:
            thread.join()
        is_over.set()
        for thread in watching:
            thread.join()
        self.truth.update()
        for observer in self.rng.sample(self.observers, 8):
            if observer not in self.seldom:
                observer.sync()

    def act(self, user, rng):
        for _ in range(DEEDS_EACH):
            deed = rng.choice(DEEDS)
            self.findings.note(f"{user.name} {deed.__name__}")
            try:
                deed(self, user)
                self.truth.update()
            except GONE:
                self.line.ask_until("GET", "/_matrix/client/versions")

    def watch(self, watcher, is_over):
        while not is_over.is_set():
            try:
                watcher.sync()
            except GONE:
                self.line.ask_until("GET", "/_matrix/client/versions")

    def check(self):
        super().check()
        for watcher in self.watchers:
            watcher.check()
