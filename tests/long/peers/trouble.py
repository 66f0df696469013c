"""Scenarios: servers that do not hear each other for a while, forks, what was missed, and questions about the past."""
import base64
import concurrent.futures
import json
import time

from client import Failed, User, quoted, until
from plan import check, same, scenario

LONG_S = 90  # a server that was found dead is not asked again at once


def at_once(*acts):
    with concurrent.futures.ThreadPoolExecutor(len(acts)) as pool:
        for done in [pool.submit(act) for act in acts]:
            done.result(120)


def promoted(w):
    """A shared room in which bob may do what alice may."""
    alice, bob, room = w.shared()
    levels = alice.reads(room, "m.room.power_levels")
    levels["users"] = {**levels.get("users", {}), bob.id: 90}
    alice.sets(room, "m.room.power_levels", levels)
    w.agree(alice, bob, room)
    return alice, bob, room


@scenario("state set on both at once")
def race(w):
    alice, bob, room = promoted(w)
    for n in range(8):
        at_once(*(lambda u=user, n=n: u.sets(room, "m.room.topic", {"topic": f"{n} of {u.server.kind}"}) for user in (alice, bob)),
                *(lambda u=user, n=n: u.sets(room, "m.test", {"n": n, "by": u.id}, key=str(n % 3)) for user in (alice, bob)))
    w.both_hear(alice, bob, room, "after the race")
    w.agree(alice, bob, room)


@scenario("partition: fork, healed alike", alone=True)
def fork(w):
    alice, bob, room = promoted(w)
    carol, dave = User(w.here, "carol"), User(w.there, "dave")
    carol.joins(room)
    dave.joins(room)
    w.both_hear(alice, bob, room, "before")
    w.agree(alice, bob, room)
    w.partition(True)
    for n in range(4):
        alice.sets(room, "m.room.topic", {"topic": f"here {n}"})
        bob.sets(room, "m.room.topic", {"topic": f"there {n}"})
        alice.says(room, f"apart here {n}")
        bob.says(room, f"apart there {n}")
    alice.does("ban", room, dave)
    bob.does("kick", room, carol)
    dave.says(room, "banned meanwhile")
    bob.sets(room, "m.test", {"only": "there"})
    w.partition(False)
    alice.says(room, "healed here")
    bob.says(room, "healed there")
    wanted = [f"apart {side} {n}" for side in ("here", "there") for n in range(4)] + ["healed here", "healed there"]
    alice.hears(room, *wanted, seconds=LONG_S)
    bob.hears(room, *wanted, seconds=LONG_S)
    w.both_hear(alice, bob, room, "settled")
    w.agree(alice, bob, room, LONG_S)
    same(bob.membership(room, dave), "ban", "who was banned")
    w.both_hear(alice, bob, room, "on")


@scenario("partition: state of one side, forbidden by the other", alone=True)
def fork_forbidden(w):
    alice, bob, room = promoted(w)
    w.both_hear(alice, bob, room, "before")
    levels = alice.reads(room, "m.room.power_levels")
    w.partition(True)
    alice.sets(room, "m.room.power_levels", {**levels, "events": {**levels.get("events", {}), "m.room.name": 100}})
    bob.sets(room, "m.room.name", {"name": "named apart"})
    w.partition(False)
    alice.says(room, "healed here")
    bob.says(room, "healed there")
    for user in (alice, bob):
        user.hears(room, "healed here", "healed there", seconds=LONG_S)
    w.both_hear(alice, bob, room, "settled")
    w.agree(alice, bob, room, 30)
    same(bob.reads(room, "m.room.name"), None, "the name that the levels forbid")


def away(w, stays, goes, server, count):
    """`goes` is killed, `stays` talks, and all is there after the start."""
    alice, bob, room = w.shared()
    w.both_hear(alice, bob, room, "before")
    stayer, leaver = (alice, bob) if stays is w.here else (bob, alice)
    server.kill()
    texts = [f"while {goes.kind} is away {n}" for n in range(count)]
    for text in texts:
        stayer.says(room, text)
    stayer.sets(room, "m.room.topic" if stayer is alice else "m.test", {"topic": "missed"}) if stayer is alice else None
    server.start()
    if stayer.server.kind == "Dendrite":
        # It leaves whom it could not reach alone for minutes, until they are heard of.
        leaver.says(room, "here I am")
    leaver.hears(room, *texts[-3:], seconds=LONG_S)
    leaver.says(room, "back again")
    stayer.hears(room, "back again", seconds=LONG_S)
    if stayer is alice:
        until(lambda: leaver.reads(room, "m.room.topic") == {"topic": "missed"}, "the topic that was missed", LONG_S)
    w.agree(alice, bob, room, LONG_S)
    have = {one["content"].get("body") for one in leaver.history(room)}
    lost = [text for text in texts if text not in have]
    check(not lost, f"{len(lost)} of {count} messages are missing on {goes.kind} after it was away, first {lost[:1]}")


@scenario("downtime: kill -9, catching up 10 messages", alone=True)
def downtime(w):
    away(w, w.here, w.there, w.there, 10)
    away(w, w.there, w.here, w.here, 10)


@scenario("downtime: catching up 60 messages in 3 rooms", alone=True)
def long_downtime(w):
    alice, bob, room = w.shared()
    rooms = [room]
    for _ in range(2):
        other = w.room(alice, preset="public_chat")
        bob.joins(other, w.here.name)
        alice.sees_membership(other, bob, "join")
        rooms.append(other)
    for stayer, leaver in ((alice, bob), (bob, alice)):
        leaver.sync()
        leaver.server.kill()
        texts = [f"{stayer.server.kind} {n}" for n in range(60)]
        for text in texts:
            for one in rooms:
                stayer.says(one, text)
        leaver.server.start()
        if stayer.server.keeps < len(texts) * len(rooms):
            # The rest does not come by itself: the next event shows that it is missing, and it has to be asked for.
            leaver.sees(lambda who=leaver, some=set(texts): some & set(who.bodies(room)), "the first of what was missed", LONG_S)
            texts.append(f"{stayer.server.kind} goes on")
            for one in rooms:
                stayer.says(one, texts[-1])
        for one in rooms:
            leaver.hears(one, texts[-1], seconds=LONG_S)
            w.agree(alice, bob, one, LONG_S)

        def missing(who=leaver, wanted=texts):
            return [text for one in rooms for text in set(wanted) - {event["content"].get("body") for event in who.history(one)}]

        try:
            until(lambda: not missing(), "all messages", LONG_S)
        except Failed as failed:
            raise Failed(f"{len(missing())} of {len(texts) * len(rooms)} messages never came to {leaver.server.kind}") from failed


@scenario("history from before the join")
def backfill(w):
    alice, bob = w.pair()
    room = w.room(alice, preset="public_chat")
    texts = [f"long ago {n}" for n in range(130)]
    for n, text in enumerate(texts):
        alice.says(room, text)
        if n % 40 == 39:
            alice.sets(room, "m.room.topic", {"topic": f"at {n}"})
    bob.joins(room, w.here.name)
    have = []

    def complete():
        have[:] = [one["content"].get("body") for one in bob.history(room) if one["type"] == "m.room.message"]
        return set(texts) <= set(have)

    try:
        until(complete, "the history", 60)
    except Failed as failed:
        raise Failed(f"{len(set(texts) - set(have))} of {len(texts)} messages from before the join are not shown") from failed
    same([one for one in have if one in set(texts)], texts[::-1], "order of the history")
    check(len(have) == len(set(have)), "an event is twice in the history")


@scenario("event at a time before the join")
def timestamp(w):
    alice, bob = w.pair()
    room = w.room(alice, preset="public_chat")
    first = alice.says(room, "early")
    moment = alice.event(room, first)["origin_server_ts"]
    until(lambda: time.time() * 1000 > moment + 50, "a later moment")
    alice.says(room, "late")
    bob.joins(room, w.here.name)
    bob.is_in(room, "join")
    found = until(lambda: bob.ask("GET", f"/_matrix/client/v1/rooms/{quoted(room)}/timestamp_to_event?ts={moment}&dir=f")[1].get("event_id"), "an event of that time")
    same(found, first, "event of a time before the join")


def key_documents(w, method, path, body=None):
    """What `here`, as a notary, says of the keys of `there`, checked."""
    status, _, raw = User(w.here, None, device="nobody").raw(method, path, body, secure=w.context)
    check(status == 200, f"{method} to {w.here.kind}: {status} {raw[:200]}")
    documents = json.loads(raw)["server_keys"]
    check(documents, f"no keys of {w.there.kind} from {w.here.kind}")
    document = documents[0]
    same(document["server_name"], w.there.name, "server of the keys")
    check({w.there.name, w.here.name} <= set(document["signatures"]), f"signatures: {sorted(document['signatures'])}")
    own = own_keys(w)
    same(document["verify_keys"], own["verify_keys"], "keys")
    for key in document["verify_keys"].values():
        check(len(base64.b64decode(key["key"] + "=")) == 32, "length of a key")


def own_keys(w):
    return json.loads(User(w.there, None, device="nobody").raw("GET", "/_matrix/key/v2/server", secure=w.context)[2])


@scenario("notary: keys of the other server", versioned=False)
def notary(w):
    name = next(iter(own_keys(w)["verify_keys"]))
    key_documents(w, "POST", "/_matrix/key/v2/query", {"server_keys": {w.there.name: {name: {"minimum_valid_until_ts": int(time.time() * 1000)}}}})


@scenario("notary: asked by the name alone", versioned=False)
def notary_by_name(w):
    key_documents(w, "GET", f"/_matrix/key/v2/query/{quoted(w.there.name)}")
