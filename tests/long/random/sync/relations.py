"""Edits, references, threads and what else relates: what is bundled with an event, pages of relations, lists of threads.

Modelled: of children only those that are not redacted, not of ignored users, and visible are shown; the last reply of a thread is
the last that the reader may see. What they may not see of a thread may be counted or not: the server looks only so far back. An edit is one by
the same sender of the same kind of event. Lists of threads are compared for who sees all of the room and never ignored anybody.
"""
import collections

from asking import V1, quoted
from findings import differences
from sync.rooms_asked import bare

PAGES, PARENTS = 100, 4
KINDS = (None, "m.thread", "m.annotation", "m.replace", "m.reference")


def check(life, user, room, seen, back):
    children = collections.defaultdict(list)
    for event in room.events:
        if event.relation.get("event_id") and event.relation.get("rel_type") and not event.is_redacted and not event.is_state:
            children[event.relation["event_id"]].append(event)
    visible = {event.id for event in life.visible[room.id, user.id]}
    for shown in back:
        event = room.get(shown["event_id"])
        got, want = bundled(shown), expected(user, event, children[event.id], visible)
        if "m.thread" in want and "m.thread" in got:
            fewest, most = want["m.thread"][0]
            want["m.thread"] = (min(max(got["m.thread"][0], fewest), most), *want["m.thread"][1:])
        if got != want:
            life.findings.report("bundled relations", user=user.id, room=room.id, event=event.id, got=got, want=want, redacted=event.is_redacted)
    want = [event.id for event in seen]
    parents = [parent for parent, of in children.items() if of and parent in room.places]
    for parent in life.rng.sample(parents, min(PARENTS, len(parents))):
        check_pages(life, user, room, parent, [event for event in children[parent] if event.id in want], parent in want)
    check_threads(life, user, room, children, back)


def bundled(shown):
    relations = dict(shown.get("unsigned", {}).get("m.relations", {}))
    found = {}
    if "m.replace" in relations:
        found["m.replace"] = relations.pop("m.replace")["event_id"]
    if "m.reference" in relations:
        found["m.reference"] = [one["event_id"] for one in relations.pop("m.reference")["chunk"]]
    if "m.thread" in relations:
        thread = relations.pop("m.thread")
        found["m.thread"] = (thread["count"], thread["latest_event"]["event_id"], thread["current_user_participated"])
    return found | relations


def expected(user, event, children, visible):
    if event.is_state:
        return {}
    counted = [child for child in children if child.sender not in user.ignored]
    shown = [child for child in counted if child.id in visible]
    of = lambda kind: [child for child in shown if child.relation["rel_type"] == kind]
    found = {}
    edits = [child for child in of("m.replace") if child.sender == event.sender and child.type == event.type and "m.new_content" in child.content]
    if edits and not event.is_redacted and event.relation.get("rel_type") != "m.replace":
        found["m.replace"] = max(edits, key=lambda child: (child.ts, child.id)).id
    if of("m.reference"):
        found["m.reference"] = [child.id for child in of("m.reference")]
    if of("m.thread") and not event.relation.get("rel_type"):
        replies = [child for child in counted if child.relation["rel_type"] == "m.thread"]
        took_part = event.sender == user.id or any(child.sender == user.id for child in replies)
        found["m.thread"] = ((len(of("m.thread")), len(replies)), of("m.thread")[-1].id, took_part)
    return found


def all_pages(user, path, **query):
    """-> (status, events)."""
    found, token = [], None
    for _ in range(PAGES):
        status, page = user.ask("GET", path, limit=2, **query, **({"from": token} if token else {}))
        if status != 200:
            return status, page
        found += page["chunk"]
        token = page.get("next_batch")
        if not token:
            return 200, found
    user.line.findings.report("pages without end", path=path)
    return 200, found


def check_pages(life, user, room, parent, children, is_seen):
    for kind in KINDS:
        want = [child.id for child in children if kind in (None, child.relation["rel_type"])]
        for direction in "bf":
            path = f"{V1}/rooms/{quoted(room.id)}/relations/{quoted(parent)}" + (f"/{kind}" if kind else "")
            status, found = all_pages(user, path, dir=direction)
            if status != 200:
                # Of what is not there, or may not be seen, nothing need be told.
                if is_seen:
                    life.findings.report("/relations refused", user=user.id, room=room.id, parent=parent, status=status, answer=found)
                return
            got = [event["event_id"] for event in found]
            if got != (want if direction == "f" else want[::-1]):
                life.findings.report("/relations", user=user.id, room=room.id, parent=parent, kind=kind, direction=direction, got=got, want=want)


def check_threads(life, user, room, children, back):
    if user.ever_ignored or len(life.visible[room.id, user.id]) < len(room.events):
        return
    threads = []
    for root_id, of in children.items():
        replies = [child for child in of if child.relation["rel_type"] == "m.thread"]
        root = room.get(root_id)
        if replies and root and not root.is_state and not root.relation.get("rel_type"):
            threads.append((room.places[replies[-1].id], root_id, user.id in {root.sender, *(child.sender for child in replies)}))
    listed = {event["event_id"]: event for event in back}
    for include in ("all", "participated"):
        status, found = all_pages(user, f"{V1}/rooms/{quoted(room.id)}/threads", include=include)
        if status != 200:
            life.findings.report("/threads refused", user=user.id, room=room.id, status=status, answer=found)
            continue
        got = [event["event_id"] for event in found]
        want = [root for _, root, took_part in sorted(threads, reverse=True) if took_part or include == "all"]
        if got != want:
            life.findings.report("/threads", user=user.id, room=room.id, include=include, got=got, want=want)
        for event in found:
            unlike = differences(bare(listed.get(event["event_id"], event)), bare(event))
            if unlike:
                life.findings.report("an event looks otherwise in /threads", user=user.id, room=room.id, event=event["event_id"], differences=unlike)
