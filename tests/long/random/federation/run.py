"""One life of three servers: users act, three deeds at a time, while servers are killed, stopped and cut off. In the end all is
well again, and all must tell the same.

Every third seed is a calm life without kills. With PostgreSQL the first and the third server use it, the second SQLite.
Differences are waited for: what lasts is told. After a while everybody says something once more, since what a server missed
may come to it only with what follows.
"""
import collections
import concurrent.futures
import itertools
import random
import threading
import time

from asking import quoted
from federation import checks_keys, checks_rest, checks_rooms, deeds, deeds_keys, deeds_rest, deeds_rooms  # noqa: F401
from federation.deeds_keys import AWAY
from federation.deeds_rooms import ENCRYPTION, RoomInfo
from federation.people import User, good, via
from federation.trouble import Site, Troubles

USERS, AT_A_TIME, DEED_S, SPEAK_S, AGREE_S = 3, 3, 200, 20, 75
CHECKS = [checks_rooms.state, checks_rooms.invites, checks_keys.keys, checks_keys.held_keys, checks_keys.messages, checks_rest.profiles,
          checks_rest.receipts, checks_rest.presence, checks_rooms.lists, checks_rooms.spaces, checks_rooms.histories, checks_rest.media,
          checks_keys.one_time]


class FederationLife:
    def __init__(self, world, findings):
        self.world, self.findings, self.rng = world, findings, random.Random(findings.seed)
        self.lock, self.numbers = threading.Lock(), itertools.count(1)
        self.sites, self.users, self.rooms, self.media, self.aliases = [], [], [], [], {}
        self.said, self.redacted, self.left, self.unanswered, self.read_last, self.read_at = [], set(), set(), set(), {}, {}
        self.erased = set()
        self.to_device, self.given = collections.defaultdict(list), collections.Counter()
        self.is_calm = findings.seed % 3 == 0

    def number(self):
        return next(self.numbers)

    def living(self):
        return [user for user in self.users if not user.is_closed]

    def some_user(self, fits=lambda user: True):
        return self.rng.choice([user for user in self.living() if fits(user)])

    def some_device(self):
        return self.rng.choice(self.some_user().devices)

    def some_room(self):
        return self.rng.choice(self.rooms)

    def user_of(self, site):
        return next(user for user in self.living() if user.site is site)

    def begin(self):
        for n in range(3):
            self.sites.append(Site(self.world.start(30 + n, "sqlite" if n == 1 else None), self.findings))
        self.users = [User(self, site, f"{name}{n}", n == 0) for site, name in zip(self.sites, "xyz") for n in range(USERS)]
        for n, user in enumerate(self.users):
            good(user.first.uploads(5, n % USERS == 1))
            good(user.ask("PUT", f"/profile/{quoted(user.id)}/displayname", {"displayname": user.name}))
        for version, is_encrypted in (("10", True), ("12", True), ("11", False)):
            self.core_room(version, is_encrypted)
        maker = self.users[0]
        made = good(maker.ask("POST", "/createRoom", {"preset": "public_chat", "creation_content": {"type": "m.space"}, "room_version": "11"}))
        self.rooms.append(RoomInfo(made["room_id"], "11", maker, is_space=True))
        self.begun_ts = int(time.time() * 1000)

    def core_room(self, version, is_encrypted):
        anchors = [user for user in self.users if user.is_anchor]
        users = {user.id: 100 for user in anchors[1:] + (anchors[:1] if version != "12" else [])}
        levels = {"users": users, "events": {"m.room.topic": 0, "org.test": 0}, "users_default": 0}
        state = [{"type": "m.room.encryption", "content": ENCRYPTION}] if is_encrypted else []
        made = good(anchors[0].ask("POST", "/createRoom", {"preset": "public_chat", "room_version": version, "power_level_content_override": levels,
                                                          "visibility": "public", "initial_state": state}))
        self.rooms.append(RoomInfo(made["room_id"], version, anchors[0], is_core=True))
        for user in anchors[1:]:
            good(user.ask("POST", f"/join/{quoted(made['room_id'])}?{via(self.sites[:1])}", {}))

    def live(self, steps, end):
        """-> how many steps were done before the end."""
        self.begin()
        troubles, doing, done = Troubles(self, self.is_calm), set(), 0
        with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool:
            try:
                while done < steps and time.monotonic() < end:
                    done += 1
                    self.findings.step = done
                    troubles.step(done)
                    label, go = deeds.choose(self)
                    self.findings.note(label)
                    doing.add(pool.submit(self.act, label, go))
                    while len(doing) >= AT_A_TIME:
                        _, doing = concurrent.futures.wait(doing, 1, concurrent.futures.FIRST_COMPLETED)
                        troubles.wake()
            finally:
                troubles.end()
            concurrent.futures.wait(doing, DEED_S)
        self.findings.seen.update({"rooms": len(self.rooms), "devices": sum(len(user.devices) for user in self.users),
                                   "messages to devices": sum(map(len, self.to_device.values()))})
        self.agree()
        return done

    def act(self, label, go):
        try:
            go()
        except AWAY:
            pass  # whose server is away has to do without
        except Exception as error:
            self.findings.report("the tester failed", deed=label, error=repr(error))

    def agree(self):
        """Waits until all servers tell the same; what they do not in the end is a finding."""
        begun, left, has_spoken = time.monotonic(), list(CHECKS), False
        while left:
            unlike = {check: self.look(check) for check in left}
            if not any(unlike.values()) and len(left) < len(CHECKS):
                # All at once: what was alike may have come apart since.
                unlike = {check: self.look(check) for check in CHECKS}
            left = [check for check in unlike if unlike[check]]
            waited = time.monotonic() - begun
            if left and waited > AGREE_S:
                for check in left:
                    self.findings.report(check.__name__, count=len(unlike[check]), found=unlike[check][:4])
                return
            if left and waited > SPEAK_S and not has_spoken:
                self.speak()
                has_spoken = True
                for check in left:
                    self.findings.count(f"{check.__name__} late")
                    self.findings.keep(f"late: {check.__name__}: {unlike[check][:4]}")
            time.sleep(1 if left else 0)

    def look(self, check):
        try:
            return list(check(self))
        except AWAY as error:
            return [f"cannot look: {error!r}"]

    def speak(self):
        for user in self.living():
            for room_id in good(user.ask("GET", "/joined_rooms"))["joined_rooms"]:
                user.ask("PUT", f"/rooms/{quoted(room_id)}/send/m.room.message/t{self.number()}", {"msgtype": "m.text", "body": "a last word"})
