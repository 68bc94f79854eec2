// Signing in: the app with its key, the terminal by `auth login` of the program itself, whose code the app approves.
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import nacl from "tweetnacl";
import { App, base64, boxFor, bytes, openBox } from "./app.mjs";

const { url, name, newest, home } = JSON.parse(process.argv[2]);
const here = dirname(fileURLToPath(import.meta.url));
const app = await App.login(url);
const seen = {};
seen.same = (await App.login(url, app.secret)).id === app.id;
const wrong = { publicKey: base64(new Uint8Array(32)), challenge: base64(new Uint8Array(32)), signature: base64(new Uint8Array(64)) };
seen.wrong = (await app.call("POST", "/v1/auth", wrong)).status;

// A scanned code: base64url without padding, as the program shows it.
const words = ["--no-warnings", "--no-deprecation", "--import", join(here, "screen.mjs")];
const entry = join(here, "node_modules", name, "dist", "index.mjs");
const terminal = spawn(process.execPath, [...words, entry, "auth", "login"], {
  env: { ...process.env, HAPPY_SERVER_URL: url, HAPPY_HOME_DIR: home, NO_COLOR: "1" },
  stdio: ["ignore", "pipe", "inherit"],
});
let shown = "";
const code = await new Promise((resolve, reject) => {
  terminal.stdout.setEncoding("utf8").on("data", (text) => {
    shown += text;
    const found = /happy:\/\/terminal\?([\w-]+)\s/.exec(shown);
    if (found) resolve(found[1]);
  });
  terminal.on("exit", () => reject(new Error(shown)));
});
const publicKey = new Uint8Array(Buffer.from(code, "base64url"));
// The code is on the screen after the request was made; nobody else has answered it.
seen.before = await app.status(publicKey);
await app.approve(publicKey, newest);
// The first approval stands: another app's changes nothing, and is not told so.
const other = await App.login(url);
const answer = await other.call("POST", "/v1/auth/response", { publicKey: base64(publicKey), response: base64(new Uint8Array(104)) });
seen.other = answer.status;
seen.exit = await new Promise((resolve) => terminal.on("close", resolve));
seen.after = (await app.status(publicKey)).status;

const kept = JSON.parse(readFileSync(join(home, "access.key"), "utf8"));
seen.secret = kept.secret === base64(app.secret);
seen.content = kept.encryption?.publicKey === base64(app.content.publicKey);
const profile = await fetch(`${url}/v1/account/profile`, { headers: { authorization: `Bearer ${kept.token}` } });
seen.account = (await profile.json()).id === app.id;

// A new phone asks the old one for the secret.
const fresh = nacl.box.keyPair();
const ask = { publicKey: base64(fresh.publicKey) };
seen.asked = (await app.ok("POST", "/v1/auth/account/request", ask)).state;
const response = base64(boxFor(app.secret, fresh.publicKey));
await app.ok("POST", "/v1/auth/account/response", { ...ask, response });
const granted = await app.ok("POST", "/v1/auth/account/request", ask);
const secret = openBox(bytes(granted.response), fresh.secretKey);
seen.granted = [granted.state, (await App.login(url, secret)).id === app.id];
const unknown = { publicKey: base64(nacl.box.keyPair().publicKey), response };
seen.unknown = (await app.call("POST", "/v1/auth/response", unknown)).status;
console.log(JSON.stringify(seen));
