// A session's whole life: the terminal program on one side, the app on the other. Prints what both saw as one line of JSON.
import { join } from "node:path";
import { writeFileSync } from "node:fs";
import { App, Heard, listen, program, tag } from "./app.mjs";

const { url, name, variant, home } = JSON.parse(process.argv[2]);
const { ApiClient } = await program(name, url, home);
const app = await App.login(url);
const phone = await app.socket();
const api = await ApiClient.create(await app.terminal(variant));
const seen = {};

const metadata = { path: home, host: "laptop", flavor: "claude" };
const opts = { tag: tag(), metadata, state: null };
const session = await api.getOrCreateSession(opts);
const sid = session.id;
seen.metadata = session.metadata;
seen.state = session.agentState;
const announced = await phone.update("new-session", (body) => body.id === sid);
const seal = app.seal(announced.dataEncryptionKey);
seen.announced = [announced.sid === sid, seal.variant, seal.open(announced.metadata)];
seen.again = (await api.getOrCreateSession(opts)).id === sid;

const client = api.sessionSyncClient(session);
const said = new Heard();
client.onUserMessage((message) => said.add(message.content.text));
const told = await listen(client.socket);
await client.receiveSync?.invalidateAndAwait();

// Messages, both ways and over both roads that apps use.
const message = (text) => seal.close({ role: "user", content: { type: "text", text }, meta: { sentFrom: "ios" } });
const first = message("by socket");
phone.emit("message", { sid, message: first, localId: "local-1" });
await said.until((text) => text === "by socket");
phone.emit("message", { sid, message: first, localId: "local-1" });
const second = { messages: [{ content: message("by request"), localId: "local-2" }] };
second.messages.push(second.messages[0]);
const stored = await app.ok("POST", `/v3/sessions/${sid}/messages`, second);
const again = await app.ok("POST", `/v3/sessions/${sid}/messages`, second);
seen.stored = [...stored.messages, ...again.messages].map(({ id, seq }) => [id === stored.messages[0].id, seq]);
await said.until((text) => text === "by request");
seen.said = said.list;

client.sendSessionEvent({ type: "message", message: "an event" });
client.sendAgentMessage("gemini", { type: "message", message: "an answer" });
client.sendClaudeSessionMessage({
  type: "assistant",
  uuid: tag(),
  message: { role: "assistant", content: [{ type: "text", text: "a thought" }], usage: { input_tokens: 3, output_tokens: 4 } },
});
await client.flush();
const written = (await app.ok("GET", `/v3/sessions/${sid}/messages?after_seq=0&limit=500`)).messages;
seen.numbers = written.map(({ seq }) => seq);
seen.written = written.map(({ content }) => JSON.stringify(seal.open(content.c)));
const backwards = (await app.ok("GET", `/v3/sessions/${sid}/messages?before_seq=2147483647&limit=2`)).messages;
seen.backwards = backwards.map(({ seq }) => written.length - seq);
await phone.update("new-message", (body) => body.message.seq === written.at(-1).seq);
seen.live = phone.updates.list.filter(({ body }) => body.t === "new-message").map(({ body }) => body.message.seq);
const usage = await phone.ephemeral("usage");
seen.usage = [usage.id === sid, usage.sid === sid, usage.key, usage.tokens.total];
const reported = await app.ok("POST", "/v1/usage/query", { sessionId: sid });
seen.reported = [reported.totalReports, reported.usage[0].tokens.total];

// Metadata: both sides write at once; one of the two is refused, takes over what the other wrote, and writes again.
let tries = 0;
const version = client.metadataVersion;
const theirs = { sid, expectedVersion: version, metadata: seal.close({ ...metadata, name: "the app's" }) };
const answered = phone.emitWithAck("update-metadata", theirs);
client.updateMetadata((current) => {
  tries++;
  return { ...current, summary: { text: "the terminal's", updatedAt: 1 } };
});
const ack = await answered;
if (ack.result === "version-mismatch") {
  const merged = seal.close({ ...seal.open(ack.metadata), name: "the app's" });
  await phone.emitWithAck("update-metadata", { sid, expectedVersion: ack.version, metadata: merged });
}
const merged = await phone.update("update-session", (body) => body.metadata?.version === version + 2);
seen.refused = [ack.result === "version-mismatch", tries === 2].filter(Boolean).length;
seen.merged = [merged.id === sid, merged.sid === sid, seal.open(merged.metadata.value)];
await told.updates.until(({ body }) => body.t === "update-session" && body.metadata?.version === version + 2);

// What the agent waits for; the app empties it.
client.updateAgentState((state) => ({ ...state, requests: { r1: { tool: "Bash" } } }));
const asked = await phone.update("update-session", (body) => body.agentState);
seen.asked = seal.open(asked.agentState.value);
const cleared = { sid, expectedVersion: asked.agentState.version, agentState: null };
seen.cleared = (await phone.emitWithAck("update-state", cleared)).result;
await told.updates.until(({ body }) => body.agentState?.version === asked.agentState.version + 1);
seen.emptied = client.agentState;
seen.stale = (await phone.emitWithAck("update-state", cleared)).result;

// Calls: handlers of the program itself, one of ours on its side, and one on the app's.
writeFileSync(join(home, "note.txt"), "on disk");
const bash = await phone.rpc(seal, `${sid}:bash`, { command: "echo from the terminal", cwd: home });
const file = await phone.rpc(seal, `${sid}:readFile`, { path: join(home, "note.txt") });
const outside = await phone.rpc(seal, `${sid}:readFile`, { path: "/etc/hostname" });
seen.calls = [bash.stdout, Buffer.from(file.content ?? "", "base64").toString(), outside.success];
client.rpcHandlerManager.registerHandler("permission", async ({ id }) => ({ allowed: id }));
// On one socket everything keeps its order: once this is answered, the handler is known.
await client.flush();
seen.permission = await phone.rpc(seal, `${sid}:permission`, { id: "r1" });
phone.on("rpc-request", ({ method, params }, answer) => answer(`${method} ${params}`));
const registered = new Promise((resolve) => phone.once("rpc-registered", resolve));
phone.emit("rpc-register", { method: "phone:ring" });
seen.registered = await registered;
seen.rung = await client.socket.emitWithAck("rpc-call", { method: "phone:ring", params: "now" });

// Presence, push and what belongs to the account.
client.keepAlive(true, "remote");
const alive = await phone.ephemeral("activity", ({ active, thinking }) => active && thinking);
seen.alive = [alive.id === sid, alive.sid === sid];
const push = "ExponentPushToken[of the phone]";
await app.ok("POST", "/v1/push-tokens", { token: push });
seen.push = (await api.push().fetchPushTokens()).map(({ token }) => token);
await app.ok("DELETE", `/v1/push-tokens/${encodeURIComponent(push)}`);
seen.pushes = (await app.ok("GET", "/v1/push-tokens")).tokens.length;
if (name === "happy") {
  api.push().sendSessionNotification({ kind: "done", metadata, data: { sessionId: sid } });
  seen.notified = (await phone.ephemeral("session-event")).kind;
  const envelope = await client.uploadLocalImageAttachmentEnvelope({ name: "a.png", data: Uint8Array.of(1, 2, 3), mimeType: "image/png" });
  seen.attachment = [...(await client.downloadAndDecryptAttachment(envelope.ev.ref))];
}
seen.vendor = [await api.getVendorToken("gemini")];
await api.registerVendorToken("gemini", { oauth: { access_token: "secret" } });
seen.vendor.push(await api.getVendorToken("gemini"));
const kept = await app.ok("POST", "/v1/kv", { mutations: [{ key: "note:1/a", value: "YQ==", version: -1 }] });
const batch = await phone.update("kv-batch-update");
seen.kv = [(await app.ok("GET", `/v1/kv/${encodeURIComponent("note:1/a")}`)).value, batch.changes[0].version === kept.results[0].version];
seen.conflict = (await app.call("POST", "/v1/kv", { mutations: [{ key: "note:1/a", value: "Yg==", version: -1 }] })).status;

// The end.
client.sendSessionDeath();
const dead = await phone.ephemeral("activity", ({ active }) => !active);
seen.dead = [dead.id === sid, dead.thinking];
const archive = () => (api.deactivateSession ? api.deactivateSession(sid) : app.ok("POST", `/v1/sessions/${sid}/archive`, {}));
seen.archived = [await archive(), await archive()].map(Boolean);
seen.listed = (await app.ok("GET", "/v1/sessions")).sessions.map(({ id, active }) => [id === sid, active]);
await client.close();
seen.deleted = [(await app.call("DELETE", `/v1/sessions/${sid}`)).status, (await app.call("DELETE", `/v1/sessions/${sid}`)).status];
seen.gone = (await phone.update("delete-session")).sid === sid;
seen.sequence = phone.updates.list.map(({ seq }) => seq);
phone.disconnect();
console.log(JSON.stringify(seen));
process.exit();
