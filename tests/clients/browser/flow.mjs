// What two people do in their browsers. Fails on a step not seen, on an exception in the page, on a blocked or failed
// request and on a violated content security policy.
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join, normalize } from "node:path";
import { deflateSync, crc32 } from "node:zlib";
import { chromium } from "playwright-core";
import { register } from "../js/person.mjs";
import { expect, fail, step } from "../js/step.mjs";

const TOTAL_LIMIT_MS = 280_000;
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".json": "application/json", ".wasm": "application/wasm" };
const [base, secret, app] = [process.argv[2].replace(/\/$/, ""), process.argv[3], process.argv[4]];
const begun = performance.now();
setTimeout(() => fail(new Error(`more than ${TOTAL_LIMIT_MS / 1000} s`)), TOTAL_LIMIT_MS).unref();

/** Serves a folder on loopback and gives its address. */
async function serve(folder) {
    const server = createServer(async (request, response) => {
        const path = normalize(new URL(request.url, "http://x").pathname);
        try {
            const body = await readFile(join(folder, path.endsWith("/") ? "index.html" : path));
            response.writeHead(200, { "Content-Type": TYPES[extname(path)] ?? "text/html" }).end(body);
        } catch {
            response.writeHead(404).end();
        }
    });
    await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
    return `http://127.0.0.1:${server.address().port}/`;
}

/** A PNG of one colour. */
function png(width, height) {
    const chunk = (kind, data) => {
        const body = Buffer.concat([Buffer.from(kind), data]);
        const frame = Buffer.alloc(body.length + 8);
        frame.writeUInt32BE(data.length, 0);
        body.copy(frame, 4);
        frame.writeUInt32BE(crc32(body), body.length + 4);
        return frame;
    };
    const header = Buffer.alloc(13);
    header.writeUInt32BE(width, 0);
    header.writeUInt32BE(height, 4);
    header.set([8, 2, 0, 0, 0], 8);
    const row = Buffer.concat([Buffer.from([0]), Buffer.alloc(width * 3, Buffer.from([0xe2, 0x62, 0x1f]))]);
    const rows = deflateSync(Buffer.concat(Array(height).fill(row)));
    return Buffer.concat([Buffer.from("\x89PNG\r\n\x1a\n", "latin1"), chunk("IHDR", header), chunk("IDAT", rows), chunk("IEND", Buffer.alloc(0))]);
}

const home = app.startsWith("/") ? await serve(app) : app;
const faults = [];
process.on("exit", (code) => { if (code) for (const fault of faults) console.error(`   ${fault}`); });
let browser, alice, bob;

/** A page of one's own storage, whose faults are collected. */
async function desk(name) {
    const context = await browser.newContext({ viewport: { width: 1000, height: 640 } });
    context.setDefaultTimeout(120_000);
    const page = await context.newPage();
    page.on("pageerror", (error) => faults.push(`${name}: ${error.message}`));
    page.on("console", (message) => {
        const text = message.text();
        // Questions whose answer "there is none" is an HTTP 404, which Chromium reports as an error.
        const asked = /room_keys\/version|account_data|dehydrated_device|auth_metadata|auth_issuer|rtc\/transports|favicon/.test(message.location().url);
        if (message.type() === "error" && !(asked && text.includes("404")) && /Content Security|CORS|Failed to load|Mixed Content/.test(text)) {
            faults.push(`${name}: ${text} (${message.location().url})`);
        }
    });
    page.on("requestfailed", (request) => {
        // A page that is left or a sync that is stopped ends its requests itself.
        if (request.failure().errorText !== "net::ERR_ABORTED") faults.push(`${name}: ${request.failure().errorText} ${request.url()}`);
    });
    return page;
}

async function signIn(page, person) {
    await page.goto(home);
    await page.locator("body[data-ready]").waitFor();
    await page.getByLabel("User").fill(person.username);
    await page.getByLabel("Password").fill(person.password);
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByText(person.userId).first().waitFor();
}

const message = (page, text) => page.locator("#timeline li.sent", { hasText: text });

async function write(page, text, file) {
    if (file) await page.locator("#send input[type=file]").setInputFiles(file);
    await page.getByPlaceholder("Message").fill(text);
    await page.getByRole("button", { name: "Send" }).click();
}

await step("two accounts; Chromium", async () => {
    alice = await register(base, secret, "alice");
    bob = await register(base, secret, "bob");
    browser = await chromium.launch({
        executablePath: process.env.CHROMIUM,
        args: ["--no-sandbox", "--disable-dev-shm-usage", ...(process.env.BROWSER_ARGS ?? "").split(" ").filter(Boolean)],
    });
    return browser.version();
});

await step("both sign in", async () => {
    alice.page = await desk("alice");
    bob.page = await desk("bob");
    await Promise.all([signIn(alice.page, alice), signIn(bob.page, bob)]);
    return home;
});

await step("encrypted room, invite accepted", async () => {
    await alice.page.getByPlaceholder("Name of a new room").fill("hearthside");
    await alice.page.getByPlaceholder("Invite").fill(bob.userId);
    await alice.page.getByRole("button", { name: "Create" }).click();
    await alice.page.locator("#room", { hasText: "hearthside" }).waitFor();
    await bob.page.getByRole("button", { name: "hearthside (accept)" }).click();
    await bob.page.getByRole("button", { name: "hearthside", exact: true }).waitFor();
});

await step("messages both ways", async () => {
    await write(alice.page, "the fire is lit");
    await Promise.all([message(alice.page, "the fire is lit").waitFor(), message(bob.page, "the fire is lit").waitFor()]);
    await write(bob.page, "I bring wood");
    await Promise.all([message(alice.page, "I bring wood").waitFor(), message(bob.page, "I bring wood").waitFor()]);
});

await step("a picture, shown by its thumbnail", async () => {
    await write(bob.page, "embers", { name: "embers.png", mimeType: "image/png", buffer: png(400, 300) });
    const image = message(alice.page, "embers").locator("img");
    await image.waitFor();
    await alice.page.waitForFunction(() => document.querySelector("#timeline img")?.naturalWidth > 0);
    const width = await image.evaluate((element) => element.naturalWidth);
    expect(width <= 400, `the thumbnail is ${width} wide`);
    return `${width} pixels wide`;
});

await step("after a reload the session and the room keys are there", async () => {
    await alice.page.reload();
    await alice.page.getByRole("button", { name: "hearthside", exact: true }).click();
    await message(alice.page, "I bring wood").waitFor();
    await write(alice.page, "still here");
    await message(bob.page, "still here").waitFor();
    await alice.page.screenshot({ path: join(process.env.SCREENSHOTS, "room.png") });
});

await step("sign out", async () => {
    await alice.page.getByRole("button", { name: "Sign out" }).click();
    await alice.page.getByRole("heading", { name: "Sign in" }).waitFor();
});

await step("nothing was blocked and nothing broke", async () => {
    expect(faults.length === 0, `${faults.length} faults: ${faults.slice(0, 5).join("; ")}`);
});

await browser.close();
console.log(`flow done in ${((performance.now() - begun) / 1000).toFixed(1)} s`);
process.exit(0);
