"""The server is killed and started again: the same questions have the same answers.

Compared with care, since what is kept in memory alone begins anew: who types, what was told lazily, and which rooms
have no news but that (their `summary` and empty entries). Changed device lists may name more than before, never less; but
who was invited and is not any more is among those who left, where they were among the changed.
"""
from findings import differences
from sync import sections


def restart(life):
    life.truth.update()
    asked = []
    for observer in life.rng.sample(life.observers, min(5, len(life.observers))):
        parameters = observer.parameters()
        asked.append((observer, parameters, observer.ask("/sync", **parameters)[1]))
    life.server.kill()
    life.server.start()
    life.line.begin_anew()
    life.findings.count("kills")
    for observer, parameters, before in asked:
        status, after = observer.ask("/sync", **parameters)
        if status != 200:
            observer.report("after a restart: refused", status=status, answer=after)
        else:
            compare(observer, sections.comparable(before), sections.comparable(after))


def compare(observer, before, after):
    lists = [answer.pop("device_lists", {}) for answer in (before, after)]
    for name in ("changed", "left"):
        lost = set(lists[0].get(name, [])) - set(lists[1].get(name, [])) - (set(lists[1].get("left", [])) if name == "changed" else set())
        if lost:
            observer.report(f"after a restart: device_lists.{name}", lost=sorted(lost), before=lists[0], after=lists[1], since=observer.since)
    if observer.is_lazy:
        lost = sections.take_members_out(observer, before) - sections.take_members_out(observer, after)
        if lost:
            observer.report("after a restart: members lost", lost=sorted(lost))
    for answer in (before, after):
        bare(answer)
    for one, other in ((before, after), (after, before)):
        drop_empty(observer, one, other)
    for room_id, room in after.get("rooms", {}).get("join", {}).items():
        if "summary" not in before.get("rooms", {}).get("join", {}).get(room_id, {"summary": {}}):
            room.pop("summary", None)
    found = differences(before, after)
    if found:
        observer.report("after a restart: another answer", since=observer.since, differences=found)


def bare(answer):
    for section in ("join", "leave"):
        for room in answer.get("rooms", {}).get(section, {}).values():
            ephemeral = room.get("ephemeral", {"events": []})
            ephemeral["events"] = [event for event in ephemeral["events"] if event["type"] != "m.typing"]
            if not room["timeline"]["events"]:
                room["timeline"].pop("prev_batch", None)


def drop_empty(observer, answer, other):
    """Takes out rooms of which nothing is told, and which the other answer does not have."""
    rooms, state = answer.get("rooms", {}), "state_after" if observer.state_after else "state"
    for room_id, room in list(rooms.get("join", {}).items()):
        parts = (room["timeline"], room[state], room["ephemeral"], room["account_data"])
        if room_id not in other.get("rooms", {}).get("join", {}) and not any(part["events"] for part in parts):
            del rooms["join"][room_id]
    for place, name in ((rooms, "join"), (answer, "rooms")):
        if not place.get(name, True):
            del place[name]
