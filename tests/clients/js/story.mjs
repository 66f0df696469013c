// Alice and Bob in an encrypted room, then Alice's second device: key backup, verification, logout.
// Run by run.sh; every step is one line, and what it proves is checked on the other side or by a plain request.
import { randomBytes } from "node:crypto";
import {
    EventType, KnownMembership, MsgType, NotificationCountType, Preset, RoomMemberEvent, Visibility,
} from "matrix-js-sdk";
import { CryptoEvent, VerificationPhase, VerifierEvent } from "matrix-js-sdk/lib/crypto-api/index.js";
import { decrypt, encrypt } from "./attachment.mjs";
import { ask, byPassword, login, register, start } from "./person.mjs";
import { expect, fail, step, until } from "./step.mjs";

const TOTAL_LIMIT_MS = 280_000;
const [base, secret] = [process.argv[2].replace(/\/$/, ""), process.argv[3]];
const begun = performance.now();
setTimeout(() => fail(new Error(`the whole story took more than ${TOTAL_LIMIT_MS / 1000} s`)), TOTAL_LIMIT_MS).unref();

let alice, bob; // persons
let phone, tablet, bobs; // Alice's two devices and Bob's one
let room; // the encrypted room's id
const said = []; // [event id, text] of everything that can be read in it
const underWay = []; // what the SDK knows only weakly, or a collection of garbage would end a verification that waits

/** The event of that id in a client's timeline, once it is there. */
const seen = (client, id) =>
    until(`event ${id} at ${client.getUserId()} ${client.getDeviceId()}`, () => client.getRoom(room)?.findEventById(id));

/** Waits until `client` reads `text` in event `id`. */
async function reads(client, id, text) {
    const event = await seen(client, id);
    await until(`"${text}" decrypted at ${client.getUserId()} ${client.getDeviceId()} (${event.decryptionFailureReason})`,
        () => event.getContent().body === text);
    expect(event.isEncrypted(), `${id} came as plain text`);
    return event;
}

/** Sends an encrypted text and notes it as said. */
async function say(client, text) {
    const { event_id: id } = await client.sendTextMessage(room, text);
    said.push([id, text]);
    return id;
}

const roomPath = (id) => `/_matrix/client/v3/rooms/${encodeURIComponent(id)}`;

await step("versions and capabilities", async () => {
    const { json } = await ask(base, "GET", "/_matrix/client/versions");
    expect(json?.versions?.includes("v1.11"), "the server does not know v1.11 (authenticated media)");
    return json.versions.at(-1);
});

await step("two accounts by the shared secret", async () => {
    alice = await register(base, secret, "alice");
    bob = await register(base, secret, "bob");
});

await step("login by password; a wrong one is refused", async () => {
    phone = await login(base, alice, "phone");
    bobs = await login(base, bob, "desk");
    const refused = await login(base, { ...alice, password: "wrong" }, "thief").then(() => null, (error) => error);
    expect(refused?.errcode === "M_FORBIDDEN", `a wrong password gave ${refused?.errcode ?? "a session"}`);
    expect((await phone.whoami()).device_id === phone.getDeviceId(), "whoami tells another device");
});

await step("crypto and first sync", async () => {
    await Promise.all([start(phone), start(bobs)]);
    return phone.getCrypto().getVersion();
});

await step("cross-signing made; replacing it takes the password", async () => {
    for (const [client, person] of [[phone, alice], [bobs, bob]]) {
        await client.getCrypto().bootstrapCrossSigning({ authUploadDeviceSigningKeys: byPassword(person) });
        expect(await client.getCrypto().isCrossSigningReady(), `cross-signing of ${person.name} is not ready`);
    }
    const first = await bobs.getCrypto().getCrossSigningKeyId();
    let asked = 0;
    await bobs.getCrypto().bootstrapCrossSigning({
        setupNewCrossSigning: true,
        authUploadDeviceSigningKeys: byPassword(bob, () => asked++),
    });
    expect(asked === 1, `keys were replaced with ${asked} askings for the password`);
    expect(first !== await bobs.getCrypto().getCrossSigningKeyId(), "the keys are the old ones");
});

await step("secret storage and key backup made", async () => {
    const crypto = phone.getCrypto();
    const key = await crypto.createRecoveryKeyFromPassphrase();
    await crypto.bootstrapSecretStorage({
        createSecretStorageKey: async () => key,
        setupNewSecretStorage: true,
        setupNewKeyBackup: true,
    });
    alice.recoveryKey = key.privateKey;
    await until("secret storage ready", () => crypto.isSecretStorageReady());
    const version = await until("key backup in use", () => crypto.getActiveSessionBackupVersion());
    return `backup version ${version}`;
});

await step("encrypted room, invite, join", async () => {
    room = (await phone.createRoom({
        preset: Preset.PrivateChat,
        visibility: Visibility.Private,
        name: "hearthside",
        invite: [bob.userId],
        initial_state: [{ type: EventType.RoomEncryption, state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
    })).room_id;
    const invite = await until("Bob's invite", () => bobs.getRoom(room));
    expect(invite.getMyMembership() === KnownMembership.Invite, `Bob's membership is ${invite.getMyMembership()}`);
    expect(invite.name === "hearthside", `the invite carries the name "${invite.name}"`);
    await bobs.joinRoom(room);
    await until("Bob joined, at both", () =>
        bobs.getRoom(room)?.getMyMembership() === KnownMembership.Join &&
        phone.getRoom(room)?.getMember(bob.userId)?.membership === KnownMembership.Join);
    expect(await phone.getCrypto().isEncryptionEnabledInRoom(room), "the room is not encrypted for Alice");
    await until("the room encrypted for Bob", () => bobs.getCrypto().isEncryptionEnabledInRoom(room));
    return phone.getRoom(room).getVersion();
});

await step("messages both ways, decrypted", async () => {
    await reads(bobs, await say(phone, "the fire is lit"), "the fire is lit");
    await reads(phone, await say(bobs, "I bring wood"), "I bring wood");
    for (let n = 0; n < 5; n++) await say(n % 2 ? phone : bobs, `log ${n}`);
    for (const [id, text] of said) await Promise.all([reads(phone, id, text), reads(bobs, id, text)]);
    const { json } = await ask(base, "GET", `${roomPath(room)}/event/${encodeURIComponent(said[0][0])}`, { token: phone.getAccessToken() });
    expect(json.type === "m.room.encrypted" && !JSON.stringify(json).includes("fire"), "the server holds the plain text");
    return `${said.length} messages`;
});

await step("typing", async () => {
    const typing = () => phone.getRoom(room).getMember(bob.userId).typing;
    let notified = 0;
    phone.on(RoomMemberEvent.Typing, () => notified++);
    await bobs.sendTyping(room, true, 15_000);
    await until("Bob typing", typing);
    await bobs.sendTyping(room, false, 0);
    await until("Bob no longer typing", () => !typing());
    expect(notified >= 2, `only ${notified} typing notices`);
});

await step("receipts", async () => {
    const [last] = said.at(-1);
    await bobs.sendReadReceipt(await seen(bobs, last));
    await until("Bob's receipt at Alice", () => phone.getRoom(room).getEventReadUpTo(bob.userId, true) === last);
});

await step("unread counts: up, highlight by mention, down by a receipt", async () => {
    const count = (kind, id = room) => bobs.getRoom(id)?.getRoomUnreadNotificationCount(kind) ?? -1;
    for (const text of ["first unread", "second unread"]) await say(phone, text);
    await until("2 unread for Bob", () => count(NotificationCountType.Total) === 2);
    await reads(bobs, ...said.at(-1));
    await bobs.sendReadReceipt(await seen(bobs, said.at(-1)[0]));
    await until("0 unread for Bob", () => count(NotificationCountType.Total) === 0);

    const { room_id: plain } = await phone.createRoom({ preset: Preset.TrustedPrivateChat, invite: [bob.userId] });
    await bobs.joinRoom(plain);
    await phone.sendMessage(plain, { "msgtype": MsgType.Text, "body": "look here", "m.mentions": { user_ids: [bob.userId] } });
    await until("1 highlight for Bob", () => count(NotificationCountType.Highlight, plain) === 1);
});

await step("encrypted file: upload, authenticated download", async () => {
    const plain = new Uint8Array(randomBytes(300_000));
    const { cipher, file } = await encrypt(plain);
    const { content_uri: url } = await phone.uploadContent(new Blob([cipher]), { type: "application/octet-stream", includeFilename: false });
    const { event_id: id } = await phone.sendMessage(room, {
        msgtype: MsgType.File, body: "embers.bin", info: { size: plain.length }, file: { ...file, url },
    });
    const content = (await reads(bobs, id, "embers.bin")).getContent();
    const address = bobs.mxcUrlToHttp(content.file.url, undefined, undefined, undefined, false, true, true);
    expect(address.includes("/_matrix/client/v1/media/download/"), `the address is ${address}`);
    const answer = await fetch(address, { headers: { Authorization: `Bearer ${bobs.getAccessToken()}` } });
    expect(answer.ok, `download: ${answer.status}`);
    const back = await decrypt(new Uint8Array(await answer.arrayBuffer()), content.file);
    expect(Buffer.compare(back, plain) === 0, "the file came back changed");
    const stranger = await fetch(address);
    await stranger.arrayBuffer();
    expect(stranger.status === 401, `without a token: ${stranger.status}`);
});

await step("room keys reach the backup", async () => {
    const sessions = (await phone.getCrypto().exportRoomKeys()).length;
    const info = await until(`${sessions} sessions in the backup`, async () => {
        // Asked plainly: the SDK remembers its first answer. It waits up to ten seconds before it uploads.
        const { json } = await ask(base, "GET", "/_matrix/client/v3/room_keys/version", { token: phone.getAccessToken() });
        return json?.count >= sessions && json;
    });
    return `${info.count} sessions`;
});

await step("new device: the old messages are there, unreadable", async () => {
    const { recoveryKey } = alice;
    alice.recoveryKey = null; // not typed in yet
    tablet = await login(base, alice, "tablet");
    await start(tablet);
    const event = await seen(tablet, said.at(-1)[0]);
    await until("a failed decryption", () => event.isDecryptionFailure());
    alice.recoveryKey = recoveryKey;
});

await step("key backup restored by the recovery key; old messages decrypted", async () => {
    const crypto = tablet.getCrypto();
    await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
    const { total, imported } = await crypto.restoreKeyBackup();
    expect(total > 0 && imported === total, `${imported} of ${total} keys imported`);
    for (let pages = 0; pages < 10 && !tablet.getRoom(room).findEventById(said[0][0]); pages++) {
        await tablet.scrollback(tablet.getRoom(room), 30);
    }
    for (const [id, text] of said) await reads(tablet, id, text);
    return `${imported} keys, ${said.length} messages`;
});

await step("device verification by SAS", async () => {
    const status = (viewer, device) => viewer.getCrypto().getDeviceVerificationStatus(alice.userId, device);
    expect(!(await status(phone, tablet.getDeviceId()))?.crossSigningVerified, "the new device is verified already");
    const incoming = new Promise((resolve) => phone.once(CryptoEvent.VerificationRequestReceived, resolve));
    const outgoing = await tablet.getCrypto().requestOwnUserVerification();
    const request = await incoming;
    underWay.push(outgoing, request);
    expect(request.isSelfVerification && request.otherDeviceId === tablet.getDeviceId(), "the request names another device");
    await request.accept();
    await until("ready on the new device", () => outgoing.phase === VerificationPhase.Ready);
    const verifierA = await outgoing.startVerification("m.sas.v1");
    const verifierB = await until("the start on the old device", () => request.verifier);
    const shown = (verifier) => new Promise((resolve) => {
        const now = verifier.getShowSasCallbacks();
        if (now) resolve(now);
        else verifier.once(VerifierEvent.ShowSas, resolve);
    });
    const both = Promise.all([shown(verifierA), shown(verifierB)]);
    const done = Promise.all([verifierA.verify(), verifierB.verify()]);
    const [a, b] = await Promise.race([both, done.then(() => { throw new Error("done without a comparison"); })]);
    expect(a.sas.emoji.length === 7 && JSON.stringify(a.sas.emoji) === JSON.stringify(b.sas.emoji), "the emoji differ");
    await Promise.all([a.confirm(), b.confirm()]);
    await done;
    await until("done on both", () => outgoing.phase === VerificationPhase.Done && request.phase === VerificationPhase.Done);
    await until("verified as seen from the old device", async () => (await status(phone, tablet.getDeviceId()))?.crossSigningVerified);
    await until("verified as seen from the new device", async () => (await status(tablet, phone.getDeviceId()))?.crossSigningVerified);
    await until("cross-signing ready on the new device", () => tablet.getCrypto().isCrossSigningReady());
    return a.sas.emoji.map(([, name]) => name).join(", ");
});

await step("Bob learns of the new device and writes to it", async () => {
    await until("the new device, signed by its owner, at Bob", async () => {
        const status = await bobs.getCrypto().getDeviceVerificationStatus(alice.userId, tablet.getDeviceId());
        return status?.signedByOwner;
    });
    const id = await say(bobs, "welcome, new device");
    await Promise.all([reads(tablet, id, "welcome, new device"), reads(phone, id, "welcome, new device")]);
    await reads(bobs, await say(tablet, "thank you"), "thank you");
});

await step("logout: the token ends, the device goes", async () => {
    const token = tablet.getAccessToken();
    const device = tablet.getDeviceId();
    await tablet.logout(true);
    const after = await ask(base, "GET", "/_matrix/client/v3/account/whoami", { token });
    expect(after.status === 401 && after.json?.errcode === "M_UNKNOWN_TOKEN", `after logout: ${after.status} ${after.text}`);
    const { devices } = await phone.getDevices();
    expect(!devices.some((one) => one.device_id === device), "the device is still listed");
    await until("the device gone for Bob", async () =>
        !(await bobs.getCrypto().getUserDeviceInfo([alice.userId], true)).get(alice.userId)?.has(device));
    await Promise.all([phone.logout(true), bobs.logout(true)]);
});

console.log(`story told in ${((performance.now() - begun) / 1000).toFixed(1)} s`);
process.exit(0);
