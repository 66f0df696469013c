// A very small Matrix client: sign in, make an encrypted room, write, read, show a picture. It reads its homeserver from
// `config.json` in the form Element Web uses, and keeps its session in this origin's storage as Element does.
import {
    ClientEvent, createClient, EventType, IndexedDBStore, KnownMembership, MatrixEventEvent, MsgType, Preset, RoomEvent, RoomStateEvent,
} from "matrix-js-sdk/lib/browser-index.js";

const SESSION = "hearthside";
const $ = (id) => document.getElementById(id);
let client, openRoom;

addEventListener("error", (event) => { $("error").textContent = event.message; });
addEventListener("unhandledrejection", (event) => { $("error").textContent = event.reason?.message ?? String(event.reason); });

/** Handles a form's submission, with its fields. */
const onSubmit = (form, act) => form.addEventListener("submit", (event) => {
    event.preventDefault();
    return act(Object.fromEntries(new FormData(form)));
});

async function homeserver() {
    const config = await (await fetch("config.json")).json();
    return config.default_server_config["m.homeserver"].base_url.replace(/\/$/, "");
}

async function run(session) {
    const store = new IndexedDBStore({ indexedDB, localStorage, dbName: `${SESSION}-sync` });
    client = createClient({ ...session, store, timelineSupport: true });
    await store.startup();
    await client.initRustCrypto({ cryptoDatabasePrefix: `${SESSION}-crypto` });
    for (const kind of [RoomEvent.Timeline, RoomEvent.LocalEchoUpdated, RoomEvent.Name, RoomEvent.MyMembership,
        MatrixEventEvent.Decrypted, RoomStateEvent.Members, ClientEvent.Sync]) client.on(kind, show);
    await client.startClient({ initialSyncLimit: 20, lazyLoadMembers: true });
    $("login").hidden = true;
    document.querySelector("main").hidden = false;
    $("me").textContent = session.userId;
}

function show() {
    $("rooms").replaceChildren(...client.getRooms().map((room) => {
        const button = document.createElement("button");
        const invited = room.getMyMembership() === KnownMembership.Invite;
        button.textContent = `${room.name}${invited ? " (accept)" : ""}`;
        button.className = room.roomId === openRoom ? "open" : "";
        button.onclick = async () => {
            if (invited) await client.joinRoom(room.roomId);
            openRoom = room.roomId;
            show();
        };
        const item = document.createElement("li");
        item.append(button);
        return item;
    }));
    const room = client.getRoom(openRoom);
    $("room").textContent = room ? room.name : "";
    const events = (room?.getLiveTimeline().getEvents() ?? []).filter((event) => event.getType() === EventType.RoomMessage || event.isDecryptionFailure());
    // Nodes of known events are kept, so that a picture is fetched once.
    const known = new Map([...$("timeline").children].map((item) => [item.dataset.key, item]));
    $("timeline").replaceChildren(...events.map((event) => {
        const key = `${event.getId()} ${event.status} ${event.isDecryptionFailure()}`;
        if (known.has(key)) return known.get(key);
        const item = document.createElement("li");
        item.dataset.key = key;
        item.className = event.status ? "sending" : "sent";
        const who = document.createElement("b");
        who.textContent = event.sender?.name ?? event.getSender();
        item.append(who, event.getContent().body ?? "");
        if (event.getContent().msgtype === MsgType.Image) item.append(picture(event.getContent().url));
        return item;
    }));
}

/** A picture by authenticated media; a page cannot put a token into <img src>. */
function picture(url) {
    const image = document.createElement("img");
    const address = client.mxcUrlToHttp(url, 160, 160, "scale", false, true, true);
    fetch(address, { headers: { Authorization: `Bearer ${client.getAccessToken()}` } })
        .then((answer) => (answer.ok ? answer.blob() : Promise.reject(new Error(`thumbnail: ${answer.status}`))))
        .then((blob) => { image.src = URL.createObjectURL(blob); });
    return image;
}

onSubmit($("login"), async ({ user, password }) => {
    $("error").textContent = "";
    const baseUrl = await homeserver();
    const answer = await createClient({ baseUrl }).loginRequest({
        type: "m.login.password", identifier: { type: "m.id.user", user }, password, initial_device_display_name: "hearthside",
    });
    const session = { baseUrl, userId: answer.user_id, deviceId: answer.device_id, accessToken: answer.access_token };
    localStorage.setItem(SESSION, JSON.stringify(session));
    await run(session);
});

onSubmit($("create"), async ({ name, invite }) => {
    const { room_id: id } = await client.createRoom({
        name, preset: Preset.PrivateChat, invite: invite ? [invite] : [],
        initial_state: [{ type: EventType.RoomEncryption, state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
    });
    openRoom = id;
    show();
});

onSubmit($("send"), async ({ text, file }) => {
    $("send").reset();
    if (file.size) {
        const { content_uri: url } = await client.uploadContent(file);
        await client.sendMessage(openRoom, { msgtype: MsgType.Image, body: text, url, info: { mimetype: file.type, size: file.size } });
    } else {
        await client.sendTextMessage(openRoom, text);
    }
});

$("logout").onclick = async () => {
    await client.logout(true);
    localStorage.removeItem(SESSION);
    location.reload();
};

homeserver().then((base) => { $("server").textContent = base; });
const kept = localStorage.getItem(SESSION);
if (kept) await run(JSON.parse(kept));
document.body.dataset.ready = "yes";
