// Steps of a story: each prints one line; the first that fails ends the run with its reason and the SDK's last words.
// Owns waiting (always bounded) and the SDK's log; knows nothing of Matrix.
import { appendFileSync } from "node:fs";
import { inspect } from "node:util";
import { logger } from "matrix-js-sdk/lib/logger.js";

const STEP_LIMIT_MS = 180_000;
const LOG_LINES_KEPT = 30;
const kept = [];
let current = "start";

/** Throws with `what` unless `condition` holds. */
export function expect(condition, what) {
    if (!condition) throw new Error(what);
}

/** Asks `look` until it gives something truthy, and hands that back. */
export async function until(what, look, limitMs = 120_000) {
    const end = Date.now() + limitMs;
    for (;;) {
        const seen = await look();
        if (seen) return seen;
        if (Date.now() > end) throw new Error(`not seen within ${limitMs / 1000} s: ${what}`);
        await new Promise((wake) => setTimeout(wake, 25));
    }
}

/** Runs one step; what it returns, when it is text, goes onto its line. */
export async function step(name, run) {
    current = name;
    const begun = performance.now();
    let timer;
    try {
        const late = new Promise((_, reject) => {
            timer = setTimeout(() => reject(new Error(`not done within ${STEP_LIMIT_MS / 1000} s`)), STEP_LIMIT_MS);
        });
        const note = await Promise.race([run(), late]);
        const seconds = ((performance.now() - begun) / 1000).toFixed(2);
        console.log(`ok ${seconds.padStart(6)} s  ${name}${typeof note === "string" ? `: ${note}` : ""}`);
    } catch (error) {
        fail(error);
    } finally {
        clearTimeout(timer);
    }
}

/** Ends the run: the step that was under way, the reason, the log. */
export function fail(error) {
    for (const line of kept) console.error(`   ${line}`);
    console.log(`FAILED  ${current}: ${error?.message ?? inspect(error)}`);
    if (error?.stack) console.error(error.stack);
    process.exit(1);
}

/** A logger for the SDK, one name a client. */
export function sdkLog(name) {
    const say = (level) => (...words) => {
        const text = words.map((word) => (typeof word === "string" ? word : inspect(word, { depth: 2, breakLength: Infinity })));
        const line = `${new Date().toISOString().slice(11, 23)} ${level} ${name} ${text.join(" ")}`.slice(0, 600);
        if (process.env.SDK_LOG) appendFileSync(process.env.SDK_LOG, `${line}\n`);
        if (level === "warn" || level === "error") {
            kept.push(line);
            if (kept.length > LOG_LINES_KEPT) kept.shift();
        }
    };
    return {
        trace: say("trace"), debug: say("debug"), info: say("info"), warn: say("warn"), error: say("error"),
        getChild: (part) => sdkLog(`${name}${part}`),
    };
}

// Parts of the SDK take no logger from their client and use this one.
logger.methodFactory = (level) => sdkLog("sdk")[level] ?? (() => {});
logger.rebuild();

process.on("unhandledRejection", (error) => {
    // The SDK leaves background requests of a stopped or logged-out client behind; they are part of its log.
    sdkLog("unhandled").warn(error);
});
