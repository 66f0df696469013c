"""What Synapse makes of events: their form, who may send them, and which of them stand when histories meet.

Run by hand with the Python of an installed Synapse, in this folder; the three files it writes are read by the tests of
`src/rules`. It uses Synapse's own code for every answer and decides nothing itself. Everything random has a seed.

    <venv>/bin/python generate.py
"""

import asyncio
import hashlib
import json
import random
import re

from canonicaljson import encode_canonical_json
from signedjson.key import decode_signing_key_base64, get_verify_key, encode_verify_key_base64
from signedjson.sign import sign_json
from unpaddedbase64 import encode_base64

from synapse import event_auth
from synapse.api.constants import EventTypes
from synapse.api.errors import SynapseError
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS, EventFormatVersions, StateResolutionVersions
from synapse.crypto.event_signing import add_hashes_and_signatures, check_event_content_hash, compute_event_reference_hash
from synapse.events import make_event_from_dict
from synapse.events.utils import prune_event
from synapse.federation.federation_base import event_from_pdu_json
from synapse.state import v1, v2
from synapse.storage.databases.main.event_federation import StateDifference

VERSIONS = [str(n) for n in range(1, 13)]
KEY = decode_signing_key_base64("ed25519", "1", "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0")


def write(name, lines):
    with open(name, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")


# ---- Form ----------------------------------------------------------------------------------------------------------

RAW = {}


def raw(text):
    """JSON to stand in the event as it is spelled here."""
    mark = f"@raw:{len(RAW)}@"
    RAW[mark] = text
    return mark


def wire(value, rng=None):
    """The text another server might send: any order of keys, any escapes."""

    def shuffled(value):
        if isinstance(value, dict):
            items = [(key, shuffled(inner)) for key, inner in value.items()]
            if rng:
                rng.shuffle(items)
            return dict(items)
        return [shuffled(inner) for inner in value] if isinstance(value, list) else value

    text = json.dumps(shuffled(value), ensure_ascii=bool(rng and rng.random() < 0.5))
    return re.sub(r'"(@raw:\d+@)"', lambda found: RAW[found.group(1)], text)


def nested(levels):
    value = 1
    for level in range(levels):
        value = {"a": value} if level % 2 else [value]
    return {"deep": value}


SIGNED = {"mxid": "@b:domain", "token": "t", "signatures": {"id.example": {"ed25519:0": "abc"}}}
LEVELS = {
    "ban": 51, "events": {"m.room.name": 50, "": 1}, "events_default": 0, "invite": 7, "kick": 52, "redact": 53,
    "state_default": 54, "users": {"@a:domain": 100}, "users_default": 1, "notifications": {"room": 20},
    "historical": 100, "extra": {},
}
# Type, state key, content, more at the top.
CONTENTS = [
    ("m.room.message", None, {"body": "hello", "msgtype": "m.text"}, {}),
    ("m.room.message", None, {"body": "\"quotes\" \\ / \b\f\n\r\t\x00\x1f\x7f\u0080\u2028\u2029\ufeff é 日本 😀 \U0010ffff"}, {}),
    ("m.room.message", None, {"\uffff": 1, "😀": 2, "é": 3, "e\u0301": 4, "z": 5, "": 6, "Z": 7, "\x00": 8, "\ud7ff": 9}, {}),
    ("m.room.message", None, {"": {"": ["", {"": None}]}, "t": True, "f": False, "e": {}, "l": []}, {}),
    ("m.room.message", None, {"n": [9007199254740991, -9007199254740991, 0, 1, -1]}, {}),
    ("m.room.message", None, nested(60), {}),
    ("m.room.message", None, {"twice": raw('{"a":1,"b":2,"a":3}')}, {}),
    ("m.room.message", None, {"space": raw(' [ 1 ,\t2,\n{ "x" : "\\u00e9\\/\\ud83d\\ude00" } ] ')}, {}),
    ("m.room.message", None, {}, {"origin": "domain", "membership": "x", "prev_state": [], "extra": {"deep": [1]}}),
    ("m.room.message", None, {}, {"unsigned": {"age": 5, "prev_content": {"a": 1}}}),
    ("m.room.message", None, {}, {"redacts": "$other:domain"}),
    ("m.room.message", None, {"n": raw("9007199254740992")}, {}),
    ("m.room.message", None, {"n": raw("-9007199254740992")}, {}),
    ("m.room.message", None, {"n": raw("123456789012345678901234567890")}, {}),
    ("m.room.message", None, {"n": [raw("1.5"), raw("-0.0"), raw("1e3"), raw("1E-7"), raw("1.0")]}, {}),
    ("m.room.message", None, {"n": [raw(n) for n in ("1e15", "1e16", "1e22", "0.0001", "0.00001", "5e-324", "0.1")]}, {}),
    ("m.room.message", None, {"n": raw("18446744073709551616"), "f": raw("9007199254740993.0")}, {}),
    ("m.room.message", None, {"n": raw("1e999")}, {}),
    ("m.room.message", None, {"n": raw("NaN")}, {}),
    ("m.room.encrypted", None, {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "…"}, {}),
    ("m.room.member", "@a:domain", {"membership": "join", "displayname": "A", "avatar_url": None}, {}),
    ("m.room.member", "@b:domain", {"membership": "invite", "third_party_invite": {"display_name": "b", "signed": SIGNED}}, {}),
    ("m.room.member", "@b:domain", {"membership": "invite", "third_party_invite": {"display_name": "b"}}, {}),
    ("m.room.member", "@b:domain", {"membership": "leave", "third_party_invite": "rubbish"}, {}),
    ("m.room.member", "@a:domain", {"membership": "join", "join_authorised_via_users_server": "@a:domain", "reason": "x"}, {}),
    ("m.room.member", "@a:domain", {"membership": ["join"], "join_authorised_via_users_server": 1}, {}),
    ("m.room.create", "", {"creator": "@a:domain", "room_version": "VERSION", "m.federate": False, "type": "m.space"}, {}),
    ("m.room.join_rules", "", {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": "!s:domain"}], "x": 1}, {}),
    ("m.room.power_levels", "", LEVELS, {}),
    ("m.room.power_levels", "", {"users": {"@a:domain": "100"}, "ban": " 50 ", "events": 5, "invite": None}, {}),
    ("m.room.power_levels", "", {"users": {"@a:domain": raw("1e2")}, "ban": raw("50.0"), "kick": raw("99999999999999999999")}, {}),
    ("m.room.history_visibility", "", {"history_visibility": "shared", "x": 1}, {}),
    ("m.room.aliases", "domain", {"aliases": ["#a:domain"], "x": 1}, {}),
    ("m.room.redaction", None, {"reason": "x"}, {"redacts": "$other:domain"}),
    ("m.room.redaction", None, {"reason": "x", "redacts": "$other:domain"}, {}),
    ("m.room.server_acl", "", {"allow": ["*"], "deny": [], "allow_ip_literals": False}, {}),
    ("m.room.third_party_invite", "token", {"display_name": "x", "public_key": "abc", "public_keys": []}, {}),
    ("org.example.\"odd\" type 😀", "a \"key\" \n", {"x": 1}, {}),
]


def forms():
    rng = random.Random(4)
    for version in VERSIONS:
        rules = KNOWN_ROOM_VERSIONS[version]
        pairs = rules.event_format == EventFormatVersions.ROOM_V1_V2
        named = (lambda ids: [[i, {"sha256": "SGFzaCBvZiB0aGUgZXZlbnQgdGhhdCBpcyBuYW1lZCE"}] for i in ids]) if pairs else list
        for number, (kind, key, content, more) in enumerate(CONTENTS):
            event = {
                "type": kind, "sender": "@a:domain", "room_id": "!x:domain", "depth": 12 + number,
                "origin_server_ts": 1_700_000_000_123, "prev_events": named(["$p1:domain", "$p2:domain"]),
                "auth_events": named(["$a1:domain"]), "content": content, **more,
            }
            if key is not None:
                event["state_key"] = key
            if pairs:
                event["event_id"] = f"$event{number}:domain"
            if kind == "m.room.create":
                event.update(prev_events=[], auth_events=[], content={**content, "room_version": version})
                if rules.msc4291_room_ids_as_hashes:
                    del event["room_id"]
            line = {"version": version}
            try:
                whole = json.loads(wire(event))
                unsigned = whole.pop("unsigned", None)
                add_hashes_and_signatures(rules, whole, "domain", KEY)
                event.update(hashes=whole["hashes"], signatures=whole["signatures"])
                line["sent"] = wire(event, rng)
                got = event_from_pdu_json(json.loads(line["sent"]), rules)
                assert check_event_content_hash(got)
                kept = got.get_pdu_json()
                kept.pop("unsigned", None)
                redacted = prune_event(got).get_pdu_json()
                redacted.pop("unsigned", None)
                line["event_id"] = got.event_id
                line["hash"] = encode_base64(compute_event_reference_hash(got)[1])
                line["canonical"] = hashlib.sha256(encode_canonical_json(kept)).hexdigest()
                line["redacted"] = hashlib.sha256(encode_canonical_json(redacted)).hexdigest()
                line["remains"] = encode_canonical_json(redacted["content"]).decode()
            except (SynapseError, ValueError) as refused:
                line.setdefault("sent", wire({**event, "hashes": {"sha256": "x"}, "signatures": {"domain": {"ed25519:1": "x"}}}))
                line["refused"] = str(refused)
            yield line


# ---- Authorisation -------------------------------------------------------------------------------------------------

CREATOR, MOD, BOB, CARL, FAR = "@creator:a", "@mod:a", "@bob:a", "@carl:a", "@far:b"
IDENTITY = decode_signing_key_base64("ed25519", "0", "cGFzc3dvcmRwYXNzd29yZHBhc3N3b3JkcGFzc3dvcmQ")
IDENTITY_KEY = encode_verify_key_base64(get_verify_key(IDENTITY))


def member(user, membership, sender=None, **more):
    return ["m.room.member", user, sender or user, {"membership": membership, **more}]


def state(kind, content, sender=CREATOR, key=""):
    return [kind, key, sender, content]


def levels(**content):
    return state("m.room.power_levels", {"users": {CREATOR: 100, MOD: 50}, **content})


def rules_of(content):
    return state("m.room.join_rules", content)


def signed(**change):
    return sign_json({"mxid": BOB, "token": "tok", **change}, "id.example", IDENTITY)


CREATE = state("m.room.create", {"creator": CREATOR})
JOINED = [CREATE, member(CREATOR, "join"), member(MOD, "join")]
# A state each; later entries of a case replace those of the same type and key.
BASES = {
    "bare": JOINED,
    "room": JOINED + [levels(), rules_of({"join_rule": "invite"})],
    "public": JOINED + [levels(), rules_of({"join_rule": "public"}), member(BOB, "join"), member(CARL, "join")],
}


def cases():
    """What, base, more state, event (type, state key or null, sender, content), more of the event."""

    memberships = [None, "invite", "join", "leave", "ban", "knock"]
    rules = [{"join_rule": r} for r in
             ("public", "invite", "knock", "private", "restricted", "knock_restricted", "odd", 5, None)] + [{}]

    def now(user, membership):
        return [] if membership is None else [member(user, membership, CREATOR if membership == "ban" else user)]

    for rule in rules + [None]:
        base, more = ("room", [rules_of(rule)]) if rule is not None else ("bare", [levels()])
        for membership in memberships:
            what = f"join: rule {rule}, now {membership}"
            yield what, base, more + now(BOB, membership), member(BOB, "join"), {}
            for via in (MOD, CARL, "rubbish", 5, None):
                if membership in (None, "leave", "ban"):
                    content = {"join_authorised_via_users_server": via}
                    yield f"{what}, via {via}", base, more + now(BOB, membership), member(BOB, "join", **content), {}
            yield f"knock: rule {rule}, now {membership}", base, more + now(BOB, membership), member(BOB, "knock"), {}
    via = {"join_authorised_via_users_server": MOD}
    for needed in (0, 50, 51):
        yield (f"restricted join, invite needs {needed}", "room",
               [levels(invite=needed), rules_of({"join_rule": "restricted"})], member(BOB, "join", **via), {})
    yield "join of another", "public", [], member(BOB, "join", CARL), {}
    yield "knock of another", "room", [rules_of({"join_rule": "knock"})], member(BOB, "knock", MOD), {}
    create = [CREATE]
    yield "the creator joins first", None, create, member(CREATOR, "join"), {"prev": "create"}
    yield "somebody else joins first", None, create, member(BOB, "join"), {"prev": "create"}
    yield "the creator is joined by another", None, create, member(CREATOR, "join", BOB), {"prev": "create"}
    yield "the creator joins later", None, create, member(CREATOR, "join"), {}
    other = [state("m.room.create", {"creator": BOB})]
    yield "the sender of another's room joins first", None, other, member(CREATOR, "join"), {"prev": "create"}
    yield "the creator of another's room joins first", None, other, member(BOB, "join"), {"prev": "create"}

    for sender in memberships:
        for target in memberships:
            more = now(BOB, sender) + now(CARL, target)
            for membership in ("invite", "leave", "ban"):
                for base in ("room", "bare"):
                    yield (f"{membership} of one who is {target} by one who is {sender}, {base}", base, more,
                           member(CARL, membership, BOB), {})
    for membership in memberships:
        yield f"leave: now {membership}", "room", now(BOB, membership), member(BOB, "leave"), {}
        yield f"invite of oneself: now {membership}", "room", now(BOB, membership), member(BOB, "invite"), {}
        yield f"ban of oneself: now {membership}", "room", now(BOB, membership), member(BOB, "ban"), {}
    for act, field in (("invite", "invite"), ("leave", "kick"), ("ban", "ban")):
        for mine in (0, 49, 50, 51):
            for theirs in (0, 49, 50, 51):
                for needed in (None, 0, 50, "50", 51):
                    content = {"users": {CREATOR: 100, BOB: mine, CARL: theirs}}
                    if needed is not None:
                        content[field] = needed
                    target = "leave" if act == "invite" else "join"
                    yield (f"{act} by {mine} of {theirs}, needs {needed}", "room",
                           [state("m.room.power_levels", content), member(BOB, "join"), member(CARL, target)],
                           member(CARL, act, BOB), {"until": 9} if needed == "50" else {})
    for ban, kick, mine in ((50, 50, 50), (60, 50, 55), (50, 60, 55), (60, 60, 55)):
        yield (f"unban by {mine}: ban {ban}, kick {kick}", "room",
               [levels(users={CREATOR: 100, BOB: mine}, ban=ban, kick=kick), member(BOB, "join"), member(CARL, "ban", CREATOR)],
               member(CARL, "leave", BOB), {})
    for content in ({"membership": "odd"}, {"membership": "odd", "x": 1}, {"membership": ""}, {"membership": "Join"}):
        yield f"membership {content}", "public", [], ["m.room.member", BOB, BOB, content], {}

    token = state("m.room.third_party_invite", {"public_key": IDENTITY_KEY, "public_keys": []}, MOD, "tok")
    listed = state("m.room.third_party_invite", {"public_key": "A" * 43, "public_keys": [{"public_key": IDENTITY_KEY}]}, MOD, "tok")
    good = {"display_name": "b", "signed": signed()}
    forged = {**signed(), "signatures": {"id.example": {"ed25519:0": "A" * 86}}}
    for what, more, invite, sender in (
        ("good", [token], good, MOD), ("by a listed key", [listed], good, MOD), ("without token", [], good, MOD),
        ("by another sender", [token], good, CREATOR), ("of who is banned", [token, member(BOB, "ban", MOD)], good, MOD),
        ("of who is joined", [token, member(BOB, "join")], good, MOD),
        ("forged", [token], {"signed": forged}, MOD), ("of another token", [token], {"signed": signed(token="x")}, MOD),
        ("for another", [token], {"signed": signed(mxid=CARL)}, MOD), ("not signed", [token], {"display_name": "b"}, MOD),
        ("signed by nobody", [token], {"signed": {"mxid": BOB, "token": "tok", "signatures": {}}}, MOD),
        ("by one who is not in the room", [state("m.room.third_party_invite", token[3], FAR, "tok")], good, FAR),
    ):
        yield f"third-party invite {what}", "room", more, member(BOB, "invite", sender, third_party_invite=invite), {}

    closed = [state("m.room.create", {"creator": CREATOR, "m.federate": False})]
    yield "a closed room, from afar", "public", closed + [member(FAR, "join")], ["m.room.message", None, FAR, {}], {}
    yield "a closed room, from here", "public", closed, ["m.room.message", None, BOB, {}], {}
    yield "a closed room is joined from afar", "public", closed, member(FAR, "join"), {}

    for mine, needed in ((0, 0), (0, 1), (49, 50), (50, 50), (-1, 0), (-5, -5)):
        users = {CREATOR: 100, BOB: mine}
        for kind, key, field in (("m.room.message", None, "events_default"), ("m.room.topic", "", "state_default"),
                                 ("org.x", None, "events"), ("org.x", "", "events"), ("m.room.third_party_invite", "t", "invite")):
            content = {"users": users, field: {"org.x": needed} if field == "events" else needed}
            yield (f"{kind} {key!r} by {mine}, needs {needed}", "public", [state("m.room.power_levels", content)],
                   [kind, key, BOB, {}], {})
    for who in (CREATOR, MOD, BOB):
        yield f"a topic without levels by {who}", "bare", [member(BOB, "join")], ["m.room.topic", "", who, {}], {}
        yield f"a message without levels by {who}", "bare", [member(BOB, "join")], ["m.room.message", None, who, {}], {}
    for membership in memberships:
        yield f"a message by one who is {membership}", "room", now(BOB, membership), ["m.room.message", None, BOB, {}], {}
    for key, kind in (("@bob:a", "org.x"), ("@carl:a", "org.x"), ("@", "org.x"), ("bob", "org.x"), ("", "org.x"), ("a", "m.room.aliases"),
                      ("b", "m.room.aliases"), ("", "m.room.aliases"), (None, "m.room.aliases"), ("@bob:a", "m.room.aliases")):
        easy = [levels(events={"org.x": 0})]
        yield f"{kind} under {key}", "public", easy, [kind, key, BOB, {}], {}
        yield f"{kind} under {key} by one outside", "room", easy, [kind, key, BOB, {}], {}

    for mine in (0, 49, 50):
        for redacts in ("$x:a", "$x:b", "$x", "rubbish"):
            content = {"users": {CREATOR: 100, BOB: mine}, "redact": 50}
            yield (f"a redaction of {redacts} by {mine}", "public", [state("m.room.power_levels", content)],
                   ["m.room.redaction", None, BOB, {"redacts": redacts}], {"redacts": redacts})

    before = {"users": {CREATOR: 100, MOD: 50, BOB: 50, CARL: 20}, "events": {"m.room.name": 40, "m.room.topic": 60},
              "notifications": {"room": 30, "x": 60}, "ban": 50, "kick": 60, "invite": 10}
    base = [state("m.room.power_levels", before), member(BOB, "join"), member(CARL, "join")]

    def changed(**content):
        after = {**before, **content}
        return ["m.room.power_levels", "", MOD, {key: value for key, value in after.items() if value is not ...}]

    users, events, notifications = before["users"], before["events"], before["notifications"]
    for what, event in (
        ("nothing", changed()), ("own level down", changed(users={**users, MOD: 10})),
        ("own level up", changed(users={**users, MOD: 51})), ("own level away", changed(users={CREATOR: 100, BOB: 50, CARL: 20})),
        ("an equal down", changed(users={**users, BOB: 49})), ("an equal away", changed(users={CREATOR: 100, MOD: 50, CARL: 20})),
        ("a lesser up to one's own", changed(users={**users, CARL: 50})), ("a lesser up too far", changed(users={**users, CARL: 51})),
        ("a lesser away", changed(users={CREATOR: 100, MOD: 50, BOB: 50})), ("a new one", changed(users={**users, FAR: 50})),
        ("a new one too high", changed(users={**users, FAR: 51})), ("a greater down", changed(users={**users, CREATOR: 10})),
        ("all users away", changed(users={})), ("no users", changed(users=...)),
        ("an event up", changed(events={**events, "m.room.name": 50})), ("an event too high", changed(events={**events, "m.room.name": 51})),
        ("a high event down", changed(events={**events, "m.room.topic": 10})), ("a high event away", changed(events={"m.room.name": 40})),
        ("a new event", changed(events={**events, "org.x": 50})), ("a new event too high", changed(events={**events, "org.x": 51})),
        ("no events", changed(events=...)), ("a notification too high", changed(notifications={**notifications, "room": 51})),
        ("a high notification down", changed(notifications={**notifications, "x": 10})),
        ("a notification away", changed(notifications={"x": 60})), ("notifications away", changed(notifications=...)),
        ("ban at one's own", changed(ban=50)), ("ban too high", changed(ban=51)), ("ban away", changed(ban=...)),
        ("kick down", changed(kick=50)), ("kick away", changed(kick=...)), ("redact new", changed(redact=50)),
        ("redact too high", changed(redact=51)), ("users_default", changed(users_default=50)),
        ("users_default too high", changed(users_default=51)), ("state_default down", changed(state_default=0)),
        ("events_default", changed(events_default=51)), ("invite", changed(invite=50)), ("invite too high", changed(invite=51)),
        ("another property", changed(org={"x": 1000})), ("historical", changed(historical=100)),
    ):
        yield f"levels: {what}", "public", base, event, {}
    for value in ("50", " 50 ", "+50", "-50", "5_0", "0x10", "050", "fifty", "", "50.0", "1e1", True, False, None, [], {}, [50], 51,
                  "51", "9223372036854775808", "-1", "٣"):
        shown = json.dumps(value)
        for field in ("ban", "users_default"):
            yield f"levels: {field} is {shown}", "public", base, changed(**{field: value}), {}
        yield f"levels: a user is {shown}", "public", base, changed(users={**users, CARL: value}), {}
        yield f"levels: an event is {shown}", "public", base, changed(events={**events, "m.room.name": value}), {}
        yield f"levels: a notification is {shown}", "public", base, changed(notifications={**notifications, "room": value}), {}
    for value in (50.0, 50.9, 51.0, -0.5, 2**53, 10**20, -(10**20), 1e300):
        loose = {"until": 5}
        yield f"levels: ban is {value!r}", "public", base, changed(ban=value), loose
        yield f"levels: a user is {value!r}", "public", base, changed(users={**users, CARL: value}), loose
        standing = state("m.room.power_levels", {"users": {CREATOR: 100, BOB: value}, "events": {"org.x": 50}})
        yield f"a level that stands as {value!r}", "public", [standing], ["org.x", None, BOB, {}], loose
    for value in (None, [], "x", 5, {"rubbish": 0}, {"@x": 0}, {"": 0}, {"@a:": 0}, {"@:a": 0}, {"@é:a": 0}):
        yield f"levels: users are {json.dumps(value)}", "public", base, changed(users=value), {}
    for value in (None, [], "x", 5):
        yield f"levels: events are {json.dumps(value)}", "public", base, changed(events=value), {}
        yield f"levels: notifications are {json.dumps(value)}", "public", base, changed(notifications=value), {}
    for content in ({}, {"users": {BOB: 1000}}, {"ban": "x"}, {"users": {"x": 1}}):
        yield f"the first levels: {content}", "bare", [], ["m.room.power_levels", "", CREATOR, content], {}
    for value in ("50", " 7 ", True, None):
        shown = json.dumps(value)
        standing = state("m.room.power_levels", {"users": {CREATOR: 100, BOB: value}, "events": {"org.x": 7}})
        yield f"a level that stands as {shown}", "public", [standing], ["org.x", None, BOB, {}], {"until": 9}
        standing = state("m.room.power_levels", {"users": {CREATOR: 100, BOB: 50}, "state_default": value})
        yield f"a default that stands as {shown}", "public", [standing], ["org.x", "", BOB, {}], {"until": 9}


def built(version, entries, event, more):
    """The state and the event as Synapse has them."""
    rules = KNOWN_ROOM_VERSIONS[version]
    pairs = rules.event_format == EventFormatVersions.ROOM_V1_V2
    room_id = "!room:a"
    events = {}

    def make(number, kind, key, sender, content, **fields):
        event = {"type": kind, "sender": sender, "content": content, "room_id": room_id, "depth": 5, "origin_server_ts": number,
                 "prev_events": [], "auth_events": [], "hashes": {}, "signatures": {}, **fields}
        if key is not None:
            event["state_key"] = key
        if pairs:
            event["event_id"] = f"$e{number}:{sender.split(':', 1)[1]}"
        if kind == "m.room.create" and rules.msc4291_room_ids_as_hashes:
            del event["room_id"]
        return make_event_from_dict(event, rules)

    for number, (kind, key, sender, content) in enumerate(entries):
        if kind == "m.room.create":
            content = {**content, "room_version": version}
        if kind == "m.room.power_levels" and rules.msc4289_creator_power_enabled and isinstance(content.get("users"), dict):
            content = {**content, "users": {u: l for u, l in content["users"].items() if u != CREATOR}}
        made = make(number, kind, key, sender, content)
        if kind == "m.room.create":
            room_id = made.room_id
        events[(kind, key)] = made
    kind, key, sender, content = event
    if kind == "m.room.power_levels" and rules.msc4289_creator_power_enabled and isinstance(content.get("users"), dict):
        content = {**content, "users": {u: l for u, l in content["users"].items() if u != CREATOR}}
    fields = {}
    if more.get("prev") == "create":
        create = events[("m.room.create", "")].event_id
        fields["prev_events"] = [[create, {"sha256": "x"}]] if pairs else [create]
    if "redacts" in more and not rules.updated_redaction_rules:
        fields["redacts"] = more["redacts"]
    return events, make(1000, kind, key, sender, content, **fields)


def allowed(version, entries, event, more):
    try:
        events, made = built(version, entries, event, more)
        event_auth.check_state_dependent_auth_rules(made, list(events.values()))
        return True
    except Exception:
        # Whatever its code stumbles over it refuses as well.
        return False


def authorisation():
    yield {"bases": BASES}
    for what, base, more, event, fields in cases():
        entries = {(e[0], e[1]): e for e in (BASES[base] if base else []) + more}.values()
        verdict = [int(v) for v in VERSIONS if int(v) <= fields.get("until", 12) and allowed(v, list(entries), event, fields)]
        line = {"what": what, "base": base, "state": more, "event": event, "allowed": verdict}
        yield {**line, **fields}


# ---- State resolution ----------------------------------------------------------------------------------------------

NAMES = ["@a:x", "@b:x", "@c:y", "@d:y", "@e:z"]


class Clock:
    async def sleep(self, _duration):
        pass


class Nothing:
    """A store without events: all of a room are given as being on their way."""

    async def get_events(self, _event_ids, allow_rejected=False):
        return {}

    async def get_auth_chain_difference(self, _room_id, _sets, conflicted, _additional):
        return StateDifference(set(), None if conflicted is None else set())


class Room:
    def __init__(self, version, rng):
        self.version, self.rng, self.events, self.clock = version, rng, {}, 1000
        self.rules = KNOWN_ROOM_VERSIONS[version]
        self.pairs = self.rules.event_format == EventFormatVersions.ROOM_V1_V2
        self.room_id = "!r:x"

    def send(self, fork, kind, key, sender, content):
        """Puts an event on a fork if the rules allow it there."""
        self.clock += self.rng.choice([0, 1, 1, 5])
        event = {"type": kind, "sender": sender, "content": content, "room_id": self.room_id, "depth": fork["depth"] + 1,
                 "origin_server_ts": self.clock - self.rng.choice([0, 0, 3]), "prev_events": self.named(fork["tips"]),
                 "state_key": key, "auth_events": [], "hashes": {}, "signatures": {}}
        if kind == "m.room.create" and self.rules.msc4291_room_ids_as_hashes:
            del event["room_id"]
        if self.pairs:
            event["event_id"] = f"$e{self.rng.randrange(10**6)}:{sender.split(':')[1]}"
        bare = make_event_from_dict(event, self.rules)
        wanted = event_auth.auth_types_for_event(self.rules, bare)
        named = [fork["state"][k] for k in sorted(wanted) if k in fork["state"]]
        if self.rules.msc4291_room_ids_as_hashes:
            named = [i for i in named if self.events[i].type != EventTypes.Create]
        event["auth_events"] = self.named(named)
        made = make_event_from_dict(event, self.rules)
        try:
            event_auth.check_state_dependent_auth_rules(made, [self.events[i] for i in fork["state"].values()])
        except Exception:
            return False
        if kind == "m.room.create":
            self.room_id = made.room_id
        self.events[made.event_id] = made
        fork["state"] = {**fork["state"], (kind, key): made.event_id}
        fork["tips"], fork["depth"] = [made.event_id], fork["depth"] + 1
        return True

    def named(self, ids):
        return [[i, {"sha256": "x"}] for i in ids] if self.pairs else list(ids)

    def resolve(self, states):
        if self.rules.state_res == StateResolutionVersions.V1:
            async def load(ids):
                return {i: self.events[i] for i in ids}
            work = v1.resolve_events_with_store(self.room_id, self.rules, states, None, load)
        else:
            work = v2.resolve_events_with_store(Clock(), self.room_id, self.rules, states, dict(self.events), Nothing())
        return dict(asyncio.run(work))


def levels_for(room, rng):
    users = {name: rng.choice([0, 50, 50, 100]) for name in rng.sample(NAMES[1:], rng.randrange(4))}
    if not room.rules.msc4289_creator_power_enabled:
        users[NAMES[0]] = 100
    content = {"users": users}
    if rng.random() < 0.3:
        content["events"] = {"m.room.topic": rng.choice([0, 50]), "m.room.name": rng.choice([0, 50, 100])}
    if rng.random() < 0.2:
        content["users_default"] = rng.choice([0, 10])
    return content


def step(room, fork, rng):
    actor, target = rng.choice(NAMES), rng.choice(NAMES)
    what = rng.randrange(12)
    if what < 3:
        return room.send(fork, "m.room.member", actor, actor, {"membership": "join"})
    if what == 3:
        return room.send(fork, "m.room.member", actor, actor, {"membership": "leave"})
    if what < 7:
        return room.send(fork, "m.room.member", target, actor, {"membership": ["invite", "ban", "leave"][what - 4]})
    if what < 9:
        return room.send(fork, "m.room.power_levels", "", actor, levels_for(room, rng))
    if what == 9:
        return room.send(fork, "m.room.join_rules", "", actor, {"join_rule": rng.choice(["public", "invite", "knock"])})
    return room.send(fork, rng.choice(["m.room.topic", "m.room.name", "org.x"]), "", actor, {"n": rng.randrange(9)})


def resolution():
    for version in VERSIONS:
        for seed in range(12 if version in ("1", "2", "6", "10", "12") else 4):
            rng = random.Random(f"{version} {seed}")
            room = Room(version, rng)
            trunk = {"state": {}, "tips": [], "depth": 0}
            room.send(trunk, "m.room.create", "", NAMES[0], {"creator": NAMES[0], "room_version": version})
            room.send(trunk, "m.room.member", NAMES[0], NAMES[0], {"membership": "join"})
            room.send(trunk, "m.room.power_levels", "", NAMES[0], levels_for(room, rng))
            # Every fourth room has no join rules where it forks.
            if seed % 4 != 3:
                room.send(trunk, "m.room.join_rules", "", NAMES[0], {"join_rule": "public"})
            for _ in range(20):
                step(room, trunk, rng)
            forks = [dict(trunk) for _ in range(rng.choice([2, 2, 3]))]
            for _ in range(rng.choice([8, 20, 40])):
                step(room, rng.choice(forks), rng)
            # Some branches meet and part again.
            if seed % 3 == 2:
                met = room.resolve([fork["state"] for fork in forks[:2]])
                joint = {"state": met, "tips": forks[0]["tips"] + forks[1]["tips"], "depth": max(f["depth"] for f in forks[:2])}
                forks[0], forks[1] = dict(joint), dict(joint)
                for _ in range(20):
                    step(room, rng.choice(forks), rng)
            states = [fork["state"] for fork in forks]
            ids = list(room.events)
            where = {event_id: n for n, event_id in enumerate(ids)}
            yield {
                "version": version, "seed": seed,
                "events": [[i, encode_canonical_json(slim(room.events[i])).decode()] for i in ids],
                "states": [sorted(where[i] for i in s.values()) for s in states],
                "resolved": sorted(where[i] for i in room.resolve(states).values()),
            }


def slim(event):
    pdu = event.get_pdu_json()
    for key in ("hashes", "signatures", "unsigned"):
        pdu.pop(key, None)
    return pdu


if __name__ == "__main__":
    write("events.jsonl", forms())
    write("auth.jsonl", authorisation())
    write("resolution.jsonl", resolution())
