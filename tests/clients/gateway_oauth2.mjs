// The official SDK signs somebody in with its all-in-one flow; a browser is played by following redirects with cookies. Called with the
// SDK's base address; prints what came of it.
import { EventSource } from "eventsource";
import PocketBase from "pocketbase";

const { base } = JSON.parse(process.argv[2]);
globalThis.EventSource = EventSource;
const visited = [];
let page = "";

async function browse(address) {
  const cookies = new Map();
  let next = new URL(address);
  for (let step = 0; step < 20; step += 1) {
    visited.push(next.pathname);
    const headers = { cookie: [...cookies].map(([name, value]) => `${name}=${value}`).join("; ") };
    const answer = await fetch(next, { redirect: "manual", headers });
    for (const line of answer.headers.getSetCookie()) {
      const [name, value] = line.split(";")[0].split("=", 2);
      cookies.set(name, value);
    }
    page = await answer.text();
    if (answer.status < 300 || answer.status >= 400) return;
    next = new URL(answer.headers.get("location"), next);
  }
}

const pb = new PocketBase(base);
let told = {};
let browsing;
try {
  const signedIn = await pb.collection("users").authWithOAuth2({
    provider: "oidc",
    urlCallback: (address) => {
      browsing = browse(address);
    },
  });
  await browsing;
  told = { record: signedIn.record, isNew: signedIn.meta.isNew, valid: pb.authStore.isValid };
} catch (error) {
  await browsing;
  told = { error: String(error.originalError ?? error) };
}
console.log(JSON.stringify({ ...told, visited, page }));
process.exit(0);
