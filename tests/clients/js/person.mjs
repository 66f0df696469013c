// A person and their devices: made through the shared-secret admin API, logged in and started through the SDK.
// Owns accounts and clients; the story is told in story.mjs.
import { createHmac, randomBytes } from "node:crypto";
import { ClientEvent, createClient, SyncState } from "matrix-js-sdk";
import { expect, sdkLog, until } from "./step.mjs";

/** A plain request, for what the SDK should not be trusted to tell about itself. */
export async function ask(base, method, path, { token, body } = {}) {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const answer = await fetch(base + path, { method, headers, body: body && JSON.stringify(body) });
    const text = await answer.text();
    let json = null;
    try {
        json = JSON.parse(text);
    } catch { /* some answers are no JSON, and the caller sees null */ }
    return { status: answer.status, json, text };
}

/** Registers `<name>-<random>` as an administrator's script would. */
export async function register(base, secret, name) {
    const path = "/_synapse/admin/v1/register";
    const username = `${name}-${randomBytes(4).toString("hex")}`;
    const password = randomBytes(12).toString("base64url");
    const { json: offer } = await ask(base, "GET", path);
    expect(offer?.nonce, `${path} gives no nonce`);
    const mac = createHmac("sha1", secret).update([offer.nonce, username, password, "notadmin"].join("\0")).digest("hex");
    const made = await ask(base, "POST", path, { body: { nonce: offer.nonce, username, password, admin: false, mac } });
    expect(made.status === 200, `registering ${username}: ${made.status} ${made.text}`);
    const again = await ask(base, "POST", path, { body: { nonce: offer.nonce, username, password, admin: false, mac } });
    expect(again.status === 400, `a nonce was good for a second use: ${again.status}`);
    return { name, username, password, userId: made.json.user_id };
}

/** Logs in by password on a new device and gives a client that is not yet started. */
export async function login(base, person, device) {
    const door = createClient({ baseUrl: base, logger: sdkLog(`${person.name}/login`) });
    const { flows } = await door.loginFlows();
    expect(flows.some((flow) => flow.type === "m.login.password"), "no m.login.password among the login flows");
    const session = await door.loginRequest({
        type: "m.login.password",
        identifier: { type: "m.id.user", user: person.username },
        password: person.password,
        initial_device_display_name: device,
    });
    expect(session.user_id === person.userId, `logged in as ${session.user_id}, not ${person.userId}`);
    const secrets = new Map();
    const client = createClient({
        baseUrl: base,
        userId: session.user_id,
        deviceId: session.device_id,
        accessToken: session.access_token,
        logger: sdkLog(`${person.name}/${device}`),
        verificationMethods: ["m.sas.v1"],
        cryptoCallbacks: {
            cacheSecretStorageKey: (id, _info, key) => secrets.set(id, key),
            getSecretStorageKey: async ({ keys }) => {
                for (const id of Object.keys(keys)) {
                    if (secrets.has(id)) return [id, secrets.get(id)];
                }
                // The person types in their recovery key.
                return person.recoveryKey ? [Object.keys(keys)[0], person.recoveryKey] : null;
            },
        },
    });
    return client;
}

/** Starts crypto (in memory) and sync, and waits for the first sync. */
export async function start(client) {
    await client.initRustCrypto({ useIndexedDB: false });
    const failures = [];
    client.on(ClientEvent.Sync, (state, _before, data) => {
        if (state === SyncState.Error) failures.push(data?.error?.message ?? "unknown");
    });
    await client.startClient({ initialSyncLimit: 20, lazyLoadMembers: true });
    await until("the first sync", () => {
        expect(failures.length === 0, `sync failed: ${failures[0]}`);
        return client.isInitialSyncComplete();
    });
}

/** User-interactive authentication by password; `asked` is told when the server wanted it. */
export function byPassword(person, asked = () => {}) {
    return async (makeRequest) => {
        try {
            return await makeRequest(null);
        } catch (error) {
            if (error.httpStatus !== 401 || !error.data?.flows) throw error;
            expect(error.data.flows.some((flow) => flow.stages.includes("m.login.password")), "no password among the UIA flows");
            asked();
            return makeRequest({
                type: "m.login.password",
                identifier: { type: "m.id.user", user: person.userId },
                password: person.password,
                session: error.data.session,
            });
        }
    };
}
