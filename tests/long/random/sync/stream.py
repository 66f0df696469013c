"""Who follows GET /events, the old way: each event that they may see, once."""
import collections

from asking import CLIENT

ROUNDS = 50


class Stream:
    def __init__(self, life, user):
        self.life, self.user, self.seen = life, user, collections.Counter()
        self.at = user.ask("GET", "/sync", timeout=0)[1]["next_batch"]
        life.truth.update()
        self.base = {room_id: len(room.events) for room_id, room in life.truth.rooms.items()}

    def follow(self):
        for _ in range(ROUNDS):
            status, answer = self.life.line.ask("GET", CLIENT + "/events", token=self.user.token, timeout=0, **{"from": self.at})
            if status != 200:
                self.life.findings.report("/events refused", user=self.user.id, status=status, answer=answer)
                return
            self.seen.update(event["event_id"] for event in answer["chunk"] if "event_id" in event)
            self.at = answer["end"]
            if not answer["chunk"]:
                return

    def check(self):
        self.follow()
        twice = [event_id for event_id, count in self.seen.items() if count > 1]
        if twice:
            self.life.findings.report("/events tells one twice", user=self.user.id, events=twice[:5])
        for room in self.life.truth.joined(self.user.id):
            memberships = room.memberships(self.user.id)
            out = max((n for n, what in memberships if what != "join"), default=-1)
            begun = max(self.base.get(room.id, 0), next(n for n, _ in memberships if n > out))
            seen = self.life.visible[room.id, self.user.id]
            want = [event.id for event in seen if room.places[event.id] >= begun and event.sender not in self.user.ever_ignored]
            missing = [event_id for event_id in want if event_id not in self.seen]
            if missing:
                self.life.findings.report("/events", user=self.user.id, room=room.id, missing=missing[:5], own=memberships)
