// Bundles the app with the browser build of matrix-js-sdk into a folder that any web server can serve.
//   node build.mjs FOLDER [BASE_URL]     with BASE_URL also a config.json in the form of Element Web
import { copyFileSync, globSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const [folder, base] = process.argv.slice(2);
mkdirSync(folder, { recursive: true });
await build({
    entryPoints: { app: join(here, "app/app.mjs") },
    outdir: folder,
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    define: { global: "globalThis" },
    logLevel: "warning",
});
for (const name of ["index.html", "app.css"]) copyFileSync(join(here, "app", name), join(folder, name));
// The SDK's crypto looks for its WebAssembly beside the bundle, below pkg/.
const [wasm] = globSync(join(here, "../node_modules/@matrix-org/matrix-sdk-crypto-wasm/pkg/*.wasm"));
mkdirSync(join(folder, "pkg"), { recursive: true });
copyFileSync(wasm, join(folder, "pkg", "matrix_sdk_crypto_wasm_bg.wasm"));
if (base) {
    writeFileSync(join(folder, "config.json"), JSON.stringify({ default_server_config: { "m.homeserver": { base_url: base } } }, null, 2));
}
