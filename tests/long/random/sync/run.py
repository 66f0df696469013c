"""One life of one server: users act one at a time, devices sync now and then, the server is killed between two steps.

Everything is compared every so often. Acts at the same moment are tried in crowd.py: the order in which they come to the server
is another each time.
"""
import collections
import itertools
import json
import random
import time

from asking import Line
from sync import deeds, deeds_account, deeds_rooms, deeds_talk, filters, history, picture, push_rules, restart, rooms_asked, spaces, unread  # noqa: F401
from sync.observer import Observer
from sync.people import User
from sync.stream import Stream
from sync.truth import Truth

USERS, MOST_ROOMS, COUNT_EVERY, SETTLE_S = 5, 8, 12, 20
# The one whose unread counts are modelled is silent most of the time: speaking is reading.
SPEAKS = ("says", "edits", "reacts", "refers", "replies_in_thread", "sets_state", "leaves", "shows_picture", "changes_profile", "redacts",
          "names_alias", "sets_levels")
WHOLE = json.dumps({"room": {"timeline": {"limit": 100}}})


class SyncLife:
    check_every = 100

    def __init__(self, world, findings):
        self.world, self.findings = world, findings
        self.rng, self.numbers = random.Random(findings.seed), itertools.count(1)
        self.most_rooms, self.forgotten, self.visible = MOST_ROOMS, set(), {}
        # (user, device) -> numbers of the messages sent to it; (user, room, thread) -> place of what was read last.
        self.to_device, self.read_upto = collections.defaultdict(list), collections.defaultdict(lambda: -1)

    def number(self):
        return next(self.numbers)

    def some_room(self):
        return self.rng.choice(self.truth.open_rooms())

    def settle(self, check, what):
        """Waits for what the server does behind its answer."""
        end = time.monotonic() + SETTLE_S
        while True:
            self.truth.update()
            if check():
                return
            if time.monotonic() > end:
                self.findings.report("never came", what=what)
                return
            time.sleep(0.02)

    def begin(self):
        self.server = self.world.start(20)
        self.line = Line(self.server, self.findings)
        self.witness = User(self.line, "witness")
        self.users = [User(self.line, f"user{n}") for n in range(USERS)]
        for user in self.users:
            user.login("fresh")
        self.reader, self.modelled, self.observers = self.users[0], self.users[:2], []
        self.rules = {user.id: push_rules.History() for user in self.users}
        self.truth = Truth(self.line, self.witness, self.findings)
        standing = filters.standing(self.rng.choice(self.users).id)
        self.observe(standing)
        # Some hardly ever sync: their gaps are long.
        self.seldom = [self.observer(name, standing[name], user) for user in self.users for name in [self.rng.choice(sorted(standing))]]
        while len(self.truth.rooms) < 4:
            deeds_rooms.creates(self, None)
        for observer in self.observers:
            if observer not in self.seldom:
                observer.sync()
        self.observe(filters.of_rooms(list(self.truth.rooms)))
        self.streams = [Stream(self, self.users[0]), Stream(self, self.users[3])]

    def observe(self, wanted):
        for n, (name, one) in enumerate(sorted(wanted.items())):
            self.observer(name, one, self.users[(n + self.findings.seed) % USERS])

    def observer(self, name, wanted, user):
        self.observers.append(Observer(self, user, name, wanted, len(self.observers)))
        return self.observers[-1]

    def live(self, steps, end):
        """-> how many steps were done before the end."""
        self.begin()
        for step in range(1, steps + 1):
            if time.monotonic() > end:
                return step - 1
            self.findings.step = step
            self.step()
            if step % COUNT_EVERY == 0:
                unread.check(self)
            if step % self.check_every == 0 or step == steps:
                self.check()
        return steps

    def step(self):
        deed, user = deeds.choose(self.rng), self.rng.choice(self.users)
        if user is self.reader and deed.__name__ in SPEAKS and self.rng.random() < 0.85:
            user = self.users[1]
        self.findings.note(f"{user.name} {deed.__name__}")
        deed(self, user)
        self.truth.update()
        for _ in range(self.rng.choice([0, 1, 2])):
            observer = self.rng.choice(self.observers)
            if observer not in self.seldom or self.rng.random() < 0.07:
                self.findings.note(f"{observer.name} syncs")
                observer.sync(full_state=self.rng.random() < 0.03)
        if self.rng.random() < 0.05:
            self.rng.choice(self.streams).follow()
        if self.rng.random() < 0.012:
            self.findings.note("kill -9")
            restart.restart(self)

    def check(self):
        self.findings.note("all is compared")
        self.truth.update()
        self.visible = {(room.id, user.id): room.visible(user.id) for room in self.truth.rooms.values() for user in self.users}
        for observer in self.observers:
            observer.sync()
            observer.sync()
            # To-device messages come by a hundred.
            for _ in range(len(self.to_device[observer.user.id, observer.device]) // 100):
                observer.sync()
            picture.check(observer)
        for user in self.users:
            self.check_user(user)
        for stream in self.streams:
            stream.check()
        unread.check(self)

    def check_user(self, user):
        rooms_asked.check_joined_rooms(self, user)
        fresh = user.ask("GET", "/sync", timeout=0, filter=WHOLE)[1].get("rooms", {}).get("join", {})
        unread.check_list(self, user, fresh)
        for room in self.truth.rooms.values():
            rooms_asked.check(self, user, room, fresh.get(room.id))
            history.check(self, user, room, fresh.get(room.id))
        spaces.check(self, user)
