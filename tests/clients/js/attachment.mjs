// Encrypted attachments as the specification describes them (AES-CTR, SHA-256 over the ciphertext), by WebCrypto.
const unpadded = (bytes) => Buffer.from(bytes).toString("base64").replace(/=+$/, "");
const COUNTER = { name: "AES-CTR", length: 64 };

/** Gives the ciphertext and the `file` member of the message that carries its key. */
export async function encrypt(plain) {
    const iv = new Uint8Array(16);
    crypto.getRandomValues(iv.subarray(0, 8));
    const key = await crypto.subtle.generateKey({ name: "AES-CTR", length: 256 }, true, ["encrypt", "decrypt"]);
    const cipher = new Uint8Array(await crypto.subtle.encrypt({ ...COUNTER, counter: iv }, key, plain));
    const sha256 = unpadded(await crypto.subtle.digest("SHA-256", cipher));
    const jwk = await crypto.subtle.exportKey("jwk", key);
    return {
        cipher,
        file: { v: "v2", iv: unpadded(iv), hashes: { sha256 }, key: { ...jwk, ext: true, key_ops: ["encrypt", "decrypt"] } },
    };
}

/** Checks the hash and gives the plain bytes. */
export async function decrypt(cipher, file) {
    if (unpadded(await crypto.subtle.digest("SHA-256", cipher)) !== file.hashes.sha256) throw new Error("the ciphertext has another hash");
    const key = await crypto.subtle.importKey("jwk", file.key, { name: "AES-CTR" }, false, ["decrypt"]);
    const counter = new Uint8Array(Buffer.from(file.iv, "base64"));
    return new Uint8Array(await crypto.subtle.decrypt({ ...COUNTER, counter }, key, cipher));
}
