"""What a scenario is: a function of a `World`, which is two servers and a room version. Importing a scenario file fills `ALL`."""
from client import Failed, User, until

ALL = []
ROOM_VERSIONS = ("6", "9", "10", "11", "12")


class Scenario:
    def __init__(self, name, act, since, alone, versioned):
        self.name, self.act, self.since, self.alone, self.versioned = name, act, since, alone, versioned


def scenario(name, since=1, alone=False, versioned=True):
    """Notes a scenario: the first room version it is for, whether it stops servers or the net between them, and whether it
    has anything to do with room versions."""
    def note(act):
        ALL.append(Scenario(name, act, since, alone, versioned))
        return act

    return note


class World:
    """`here` makes the room, `there` is the other one."""

    def __init__(self, here, there, version, context):
        self.here, self.there, self.version, self.context = here, there, version, context

    def pair(self):
        return User(self.here, "alice"), User(self.there, "bob")

    def room(self, alice, **body):
        return alice.creates(self.version, **body)

    def shared(self, **body):
        """-> (alice, bob, room): a public room of alice's that bob has joined, and both know it."""
        alice, bob = self.pair()
        room = self.room(alice, preset="public_chat", **body)
        bob.joins(room, self.here.name)
        alice.sees_membership(room, bob, "join")
        bob.is_in(room, "join")
        return alice, bob, room

    def both_hear(self, alice, bob, room, tag):
        """A message each way."""
        alice.says(room, f"{tag} from here")
        bob.says(room, f"{tag} from there")
        for user in (alice, bob):
            user.hears(room, f"{tag} from here", f"{tag} from there")

    @staticmethod
    def agree(alice, bob, room, seconds=60):
        """Both servers have the same state."""
        def differing():
            one, two = alice.state(room), bob.state(room)
            return [f"{kind} {key}".strip() for kind, key in sorted(one.keys() | two.keys()) if one.get((kind, key)) != two.get((kind, key))]

        try:
            until(lambda: not differing(), "the same state", seconds)
        except Failed as failed:
            rest = differing()
            if rest:
                raise Failed(f"state differs after {seconds} s: {', '.join(rest[:4])}") from failed

    def partition(self, apart):
        for server in (self.here, self.there):
            server.front.set(not apart)


def check(good, what):
    if not good:
        raise Failed(what)


def same(got, wanted, what):
    if got != wanted:
        raise Failed(f"{what}: {got!r}, not {wanted!r}")
