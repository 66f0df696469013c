"""Deeds about an account: data, tags, push rules, whom it ignores, presence, name; devices, their keys and messages to them."""
from asking import CLIENT, quoted
from sync.deeds import deed
from sync.push_rules import HIGHLIGHTS


@deed(3)
def keeps_data(life, user):
    at = f"/user/{quoted(user.id)}"
    if life.rng.random() < 0.5:
        at += f"/rooms/{quoted(life.some_room().id)}"
    user.ask("PUT", f"{at}/account_data/org.x.{life.rng.choice('abc')}", {"n": life.number()})


@deed(3)
def tags(life, user):
    at = f"/user/{quoted(user.id)}/rooms/{quoted(life.some_room().id)}/tags/{life.rng.choice(['m.favourite', 'u.x', 'm.lowpriority'])}"
    if life.rng.random() < 0.6:
        user.ask("PUT", at, {"order": round(life.rng.random(), 3)})
    else:
        user.ask("DELETE", at)


@deed(4)
def changes_push_rules(life, user):
    if user is life.reader:
        return
    room, at = life.some_room(), "/pushrules/global"
    actions, is_on = life.rng.choice([[], ["notify"], HIGHLIGHTS]), life.rng.random() < 0.5
    condition = {"kind": "event_match", "key": "room_id", "pattern": room.id}
    path, body, change = life.rng.choice([
        (f"room/{quoted(room.id)}", {"actions": actions}, lambda rules: rules.rooms.update({room.id: actions})),
        (f"room/{quoted(room.id)}", None, lambda rules: rules.rooms.pop(room.id, None)),
        (f"override/mute{quoted(room.id)}", {"actions": [], "conditions": [condition]}, lambda rules: rules.muted.add(room.id)),
        (f"override/mute{quoted(room.id)}", None, lambda rules: rules.muted.discard(room.id)),
        ("content/keyword", {"actions": HIGHLIGHTS, "pattern": "keyword"}, lambda rules: setattr(rules, "has_word", True)),
        ("override/.m.rule.suppress_notices/enabled", {"enabled": is_on}, lambda rules: setattr(rules, "hides_notices", is_on)),
        ("underride/.m.rule.message/enabled", {"enabled": is_on}, lambda rules: setattr(rules, "tells_messages", is_on))])
    status, _ = user.ask("DELETE" if body is None else "PUT", f"{at}/{path}", body)
    if status == 200:
        life.rules[user.id].change(life, change)


@deed(2)
def ignores(life, user):
    # Unread counts are modelled without that, and somebody must see all that is said.
    if user in life.modelled:
        return
    user.ignored = {one.id for one in life.rng.sample(life.users, life.rng.choice([0, 0, 1, 1, 2]))} - {user.id}
    user.ever_ignored |= user.ignored
    user.ask("PUT", f"/user/{quoted(user.id)}/account_data/m.ignored_user_list", {"ignored_users": {one: {} for one in sorted(user.ignored)}})


@deed(1)
def shows_presence(life, user):
    presence = life.rng.choice(["online", "unavailable", "offline"])
    user.ask("PUT", f"/presence/{quoted(user.id)}/status", {"presence": presence, "status_msg": f"status {life.number()}"})


@deed(2)
def changes_profile(life, user):
    field, value = life.rng.choice([("displayname", f"{user.name} {life.number()}"), ("displayname", f"{user.name} {life.number()}"),
                                    ("avatar_url", f"mxc://{life.server.name}/{life.number()}")])
    user.ask("PUT", f"/profile/{quoted(user.id)}/{field}", {field: value})
    life.settle(lambda: all(room.state()["m.room.member", user.id].content.get(field) == value for room in life.truth.joined(user.id)),
                "a new name or picture shows in all rooms")


@deed(4)
def sends_to_device(life, user):
    other = life.rng.choice(life.users)
    devices = [observer.device for observer in life.observers if observer.user is other]
    for _ in range(life.rng.choice([1, 1, 3, 120]) if life.rng.random() < 0.2 else 1):
        to_all = life.rng.random() < 0.3 or not devices
        chosen = devices if to_all else [life.rng.choice(devices)]
        n = life.number()
        messages = {other.id: {"*" if to_all else chosen[0]: {"n": n}}}
        if user.ask("PUT", f"/sendToDevice/org.x.message/t{n}", {"messages": messages})[0] == 200:
            for device in chosen:
                life.to_device[other.id, device].append(n)


def upload_keys(life, user, device):
    n = life.number()
    signatures = {user.id: {f"ed25519:{device}": "AAAA"}}
    keys = {f"signed_curve25519:{n}x{k}": {"key": f"key {n} {k}", "signatures": signatures} for k in range(life.rng.randint(0, 4))}
    body = {"one_time_keys": keys}
    if life.rng.random() < 0.6:
        body["device_keys"] = {"user_id": user.id, "device_id": device, "algorithms": ["m.olm.v1.curve25519-aes-sha2"], "signatures": signatures,
                               "keys": {f"curve25519:{device}": f"curve {n}", f"ed25519:{device}": f"ed {device}"}}
    status, _ = life.line.ask("POST", CLIENT + "/keys/upload", body, user.tokens[device])
    for observer in life.observers:
        if status == 200 and observer.device == device:
            observer.uploaded_keys += len(keys)


@deed(3)
def uploads_keys(life, _):
    observer = life.rng.choice(life.observers)
    upload_keys(life, observer.user, observer.device)


@deed(3)
def claims_key(life, user):
    observer = life.rng.choice(life.observers)
    wanted = {observer.user.id: {observer.device: "signed_curve25519"}}
    status, answer = user.ask("POST", "/keys/claim", {"one_time_keys": wanted})
    if status == 200 and answer.get("one_time_keys", {}).get(observer.user.id, {}).get(observer.device):
        observer.uploaded_keys -= 1


@deed(4)
def changes_devices(life, user):
    chance, passing = life.rng.random(), [device for device in user.tokens if device.startswith("passing")]
    if chance < 0.4:
        device = f"passing{life.number()}"
        user.login(device)
        if life.rng.random() < 0.6:
            upload_keys(life, user, device)
    elif chance < 0.6:
        if passing:
            life.line.ask("POST", CLIENT + "/logout", {}, user.tokens.pop(life.rng.choice(passing)))
    elif chance < 0.8:
        user.ask("PUT", f"/devices/{life.rng.choice(list(user.tokens))}", {"display_name": f"device {life.number()}"})
    else:
        upload_keys(life, user, life.rng.choice(list(user.tokens)))
