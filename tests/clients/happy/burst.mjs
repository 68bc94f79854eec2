// What a terminal has to say after a while without a network: many large messages, which the program sends in one request.
import { App, listen, program, tag } from "./app.mjs";

const { url, name, home } = JSON.parse(process.argv[2]);
const { ApiClient } = await program(name, url, home);
const app = await App.login(url);
const api = await ApiClient.create(await app.terminal("dataKey"));
const session = await api.getOrCreateSession({ tag: tag(), metadata: { path: home, host: "laptop" }, state: null });
const client = api.sessionSyncClient(session);
await listen(client.socket);

const COUNT = 16;
for (let i = 0; i < COUNT; i++) client.sendAgentMessage("codex", { type: "message", message: `${i} ${"x".repeat(700_000)}` });
await client.sendSync.invalidateAndAwait();
const seqs = [];
const pages = [];
for (let more = true; more; ) {
  const page = await app.ok("GET", `/v3/sessions/${session.id}/messages?after_seq=${seqs.at(-1) ?? 0}&limit=500`);
  pages.push(page.messages.length);
  seqs.push(...page.messages.map(({ seq }) => seq));
  more = page.hasMore;
}
console.log(JSON.stringify({ seqs, cut: pages.length > 1 }));
process.exit();
