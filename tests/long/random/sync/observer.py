"""A device that syncs now and then with one filter: what it has put together from all answers so far.

Modelled: rooms by section, account data, presence, to-device messages, the device lists it follows, and of each room what
joined.py and left.py take from an answer. Answers are compared as they come with what the truth says must be in them; the
whole picture is compared in picture.py.
"""
import json

from asking import CLIENT, quoted
from findings import differences
from sync import joined, left, sections
from sync.filters import has_room


class Observer:
    def __init__(self, life, user, name, wanted, number):
        self.life, self.user, self.name = life, user, f"{name} of {user.name}"
        self.filter, self.state_after = wanted
        self.device = f"looks{number}"
        self.token = user.login(self.device)
        self.parameter = json.dumps(self.filter)
        if life.rng.random() < 0.3:
            self.parameter = self.keep_filter()
        of_rooms = self.filter.get("room", {})
        self.of_rooms, self.of_timeline, self.of_state = of_rooms, of_rooms.get("timeline", {}), of_rooms.get("state", {})
        self.is_lazy = self.of_state.get("lazy_load_members", False)
        self.limit = self.of_timeline.get("limit", 10)
        self.since, self.joined, self.invited, self.knocked = None, {}, {}, {}
        self.account_data, self.presence, self.to_device, self.key_counts = {}, {}, [], {}
        # User -> their keys as they were when the answers last named them.
        self.followed = None
        self.uploaded_keys = 0
        # Room -> how many of its events had happened at the last answer.
        self.upto = {}

    def keep_filter(self):
        status, answer = self.life.line.ask("POST", f"{CLIENT}/user/{quoted(self.user.id)}/filter", self.filter, self.token)
        if status != 200:
            raise RuntimeError(f"filter: {status} {answer}")
        return answer["filter_id"]

    def report(self, kind, **seen):
        self.life.findings.report(kind, observer=self.name, **seen)

    def wants_room(self, room_id):
        return has_room(self.of_rooms, room_id)

    def parameters(self, **more):
        after = "true" if self.state_after else None
        return {"timeout": 0, "filter": self.parameter, "since": self.since, "use_state_after": after, **more}

    def ask(self, path, **query):
        return self.life.line.ask("GET", CLIENT + path, token=self.token, **query)

    def sync(self, full_state=False):
        self.life.truth.update()
        asked = self.parameters(full_state="true" if full_state else None)
        status, answer = self.ask("/sync", **asked)
        if status != 200:
            self.report("/sync refused", status=status, answer=answer)
            return
        if self.life.rng.random() < 0.15:
            self.asks_again(asked, answer)
        self.take(answer, full_state)

    def asks_again(self, asked, answer):
        """The same question has the same answer, but for members told lazily: the first answer may have been lost, so
        that they are told again."""
        again = self.ask("/sync", **asked)[1]
        one, other = sections.comparable(answer), sections.comparable(again)
        lost = sections.take_members_out(self, one) - sections.take_members_out(self, other) if self.is_lazy else set()
        found = differences(one, other)
        if found or lost:
            self.report("the same question, another answer", since=self.since, differences=found, members_lost=sorted(lost))

    def take(self, answer, full_state):
        rooms = answer.get("rooms", {})
        sections.check(self, rooms, full_state)
        for event in answer.get("account_data", {}).get("events", []):
            self.account_data[event["type"]] = event["content"]
        for event in answer.get("presence", {}).get("events", []):
            self.presence[event["sender"]] = event["content"]
        self.take_to_device(answer.get("to_device", {}).get("events", []))
        self.key_counts = answer.get("device_one_time_keys_count", {})
        self.take_device_lists(answer.get("device_lists", {}))
        for room_id, shown in rooms.get("join", {}).items():
            joined.take(self, self.life.truth.rooms[room_id], shown, full_state)
            self.invited.pop(room_id, None)
            self.knocked.pop(room_id, None)
        for room_id, shown in rooms.get("leave", {}).items():
            left.take(self, self.life.truth.rooms[room_id], shown)
            for place in (self.joined, self.invited, self.knocked):
                place.pop(room_id, None)
        for mine, section, state in ((self.invited, "invite", "invite_state"), (self.knocked, "knock", "knock_state")):
            for room_id, shown in rooms.get(section, {}).items():
                for place in (self.joined, self.invited, self.knocked):
                    place.pop(room_id, None)
                mine[room_id] = shown[state]["events"]
        self.since = answer["next_batch"]
        self.upto = {room_id: len(room.events) for room_id, room in self.life.truth.rooms.items()}

    def take_to_device(self, events):
        if len(events) > 100:
            self.report("more than 100 to-device messages", count=len(events))
        self.to_device += [event["content"].get("n") for event in events]

    def take_device_lists(self, lists):
        if self.since is None:
            self.followed = {user: self.user.keys_of([user]).get(user) for user in self.life.truth.sharing(self.user.id, encrypted=False)}
            return
        for user in lists.get("changed", []):
            self.followed[user] = self.user.keys_of([user]).get(user)
        for user in lists.get("left", []):
            self.followed.pop(user, None)
            if user in self.life.truth.sharing(self.user.id, encrypted=True):
                self.report("device_lists.left names who shares a room", user=user)

    def visible(self, room):
        return self.life.visible[room.id, self.user.id]

    # What the user was in a room before and since the last answer

    def was_and_became(self, room):
        """-> (membership at the last answer, memberships since)."""
        upto = self.upto.get(room.id, 0)
        memberships = room.memberships(self.user.id)
        before = [what for n, what in memberships if n < upto]
        return (before[-1] if before else None), [what for n, what in memberships if n >= upto]

    def is_new(self, room):
        """Whether the user, who is joined, was not so all the time since the last answer."""
        was, became = self.was_and_became(room)
        return was != "join" or any(what != "join" for what in became)
