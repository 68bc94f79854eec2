// Two accounts on one server, each with the real program: nothing of the one reaches the other, by no id and over no road.
import { App, Heard, listen, program, tag } from "./app.mjs";

const { url, name, variant, home } = JSON.parse(process.argv[2]);
const { ApiClient } = await program(name, url, home);
const seen = {};
const machineId = tag();
const artifactId = tag();

const a = await App.login(url);
const b = await App.login(url);
const phones = [await a.socket(), await b.socket()];
const heard = new Heard();
phones[1].onAny((...event) => heard.add(JSON.stringify(event)));

const apis = [await ApiClient.create(await a.terminal(variant)), await ApiClient.create(await b.terminal(variant))];
const session = await apis[0].getOrCreateSession({ tag: "shared-tag", metadata: { path: home, host: "a" }, state: null });
const sid = session.id;
const client = apis[0].sessionSyncClient(session);
client.onUserMessage(() => {});
await listen(client.socket);
client.sendSessionEvent({ type: "message", message: "for a alone" });
await client.flush();
const machine = await apis[0].getOrCreateMachine({ machineId, metadata: { host: "a" }, daemonState: { status: "offline" } });
const daemon = apis[0].machineSyncClient(machine);
daemon.setRPCHandlers({ spawnSession: async () => ({ type: "success", sessionId: sid }), stopSession: () => true, requestShutdown: () => {} });
daemon.connect();
await phones[0].update("update-machine", (body) => body.daemonState?.version === 2);
await a.ok("POST", "/v1/artifacts", { id: artifactId, header: "aGVhZA==", body: "Ym9keQ==", dataEncryptionKey: "a2V5" });
await a.ok("POST", "/v1/kv", { mutations: [{ key: "mine", value: "YQ==", version: -1 }] });
await a.ok("POST", "/v1/push-tokens", { token: "ExponentPushToken[a]" });
await apis[0].registerVendorToken("openai", "secret of a");
client.keepAlive(true, "remote");
await phones[0].ephemeral("activity");

// By request: every id of the one is unknown to the other.
const message = { messages: [{ content: "c2VhbGVk", localId: "l" }] };
const attempts = [
  ["GET", `/v1/sessions/${sid}`], ["DELETE", `/v1/sessions/${sid}`], ["POST", `/v1/sessions/${sid}/archive`, {}],
  ["GET", `/v1/sessions/${sid}/messages`], ["GET", `/v3/sessions/${sid}/messages`], ["POST", `/v3/sessions/${sid}/messages`, message],
  ["POST", `/v1/sessions/${sid}/messages`, { content: "x" }], ["GET", `/v1/sessions/${sid}/state`], ["GET", `/v1/sessions/${sid}/sharing`],
  ["POST", `/v1/sessions/${sid}/attachments/request-upload`, { filename: "a", size: 1 }],
  ["POST", `/v1/sessions/${sid}/push-event`, { kind: "done", title: "t", body: "b" }],
  ["GET", `/v1/machines/${machineId}`], ["DELETE", `/v1/machines/${machineId}`], ["PUT", `/v1/machines/${machineId}/status`, { active: true }],
  ["GET", `/v1/artifacts/${artifactId}`], ["DELETE", `/v1/artifacts/${artifactId}`],
  ["POST", `/v1/artifacts/${artifactId}`, { header: "eA==", expectedHeaderVersion: 1 }],
  ["GET", `/v1/access-keys/${sid}/${machineId}`], ["POST", `/v1/access-keys/${sid}/${machineId}`, { data: "x" }],
  ["GET", "/v1/kv/mine"], ["POST", "/v1/usage/query", { sessionId: sid }],
];
seen.requests = [];
for (const [method, path, body] of attempts) {
  const { status } = await b.call(method, path, body);
  if (status !== 404) seen.requests.push([method, path, status]);
}
seen.lists = [
  (await b.ok("GET", "/v1/sessions")).sessions.length, (await b.ok("GET", "/v1/machines")).length, (await b.ok("GET", "/v1/artifacts")).length,
  (await b.ok("GET", "/v1/kv")).items.length, (await b.ok("GET", "/v1/push-tokens")).tokens.length,
];
seen.vendor = await apis[1].getVendorToken("openai");
const claim = await b.call("POST", "/v1/artifacts", { id: artifactId, header: "Yg==", body: "Yg==", dataEncryptionKey: "Yg==" });
seen.claim = claim.status === 409 || (claim.status === 200 && claim.body.header === "Yg==");

seen.calls = [];
for (const method of [`${sid}:bash`, `${machineId}:bash`]) {
  seen.calls.push((await phones[1].emitWithAck("rpc-call", { method, params: "" })).ok);
}
seen.heard = [...heard.list];

// By socket, also by one that names the other's session and machine as its own.
const spy = await b.socket({ clientType: "session-scoped", sessionId: sid });
const mole = await b.socket({ clientType: "machine-scoped", machineId });
for (const socket of [spy, mole]) socket.onAny((...event) => heard.add(JSON.stringify(event)));
const seal = a.seal((await phones[0].update("new-session")).dataEncryptionKey);
const text = seal.close({ role: "user", content: { type: "text", text: "still for a alone" } });
phones[0].emit("message", { sid, message: text, localId: "a-1" });
const asked = {
  metadata: await spy.emitWithAck("update-metadata", { sid, metadata: "x", expectedVersion: session.metadataVersion }),
  state: await spy.emitWithAck("update-state", { sid, agentState: "x", expectedVersion: session.agentStateVersion }),
  daemon: await mole.emitWithAck("machine-update-state", { machineId, daemonState: "x", expectedVersion: 2 }),
  artifact: await spy.emitWithAck("artifact-read", { artifactId }),
  key: await spy.emitWithAck("access-key-get", { sessionId: sid, machineId }),
  usage: await spy.emitWithAck("usage-report", { key: "k", sessionId: sid, tokens: { total: 1 }, cost: { total: 1 } }),
};
seen.refused = Object.values(asked).map(({ result, ok, success }) => result === "error" || ok === false || success === false);
seen.told = Object.values(asked).map(({ message: words, error }) => words ?? error);
spy.emit("message", { sid, message: "eA==" });
spy.emit("session-end", { sid, time: Date.now() });
mole.emit("machine-alive", { machineId, time: Date.now() });
mole.emit("rpc-register", { method: `${machineId}:spawn-happy-session` });
// What the other registered under this machine's name is not called for it.
const spawned = await phones[0].rpc(a.seal((await a.ok("GET", "/v1/machines"))[0].dataEncryptionKey), `${machineId}:spawn-happy-session`, { directory: home });
seen.spawned = spawned.sessionId === sid;

// The same tag and the same machine id are the other's own.
const own = await apis[1].getOrCreateSession({ tag: "shared-tag", metadata: { path: home, host: "b" }, state: null });
const twin = await apis[1].getOrCreateMachine({ machineId, metadata: { host: "b" } });
seen.own = [own.id !== sid, own.metadata.host, twin.metadata.host, (await b.ok("GET", "/v1/machines"))[0].id === machineId];
await phones[1].update("new-machine");

const kept = (await a.ok("GET", `/v1/sessions/${sid}`)).session;
seen.kept = [kept.active, kept.metadataVersion === session.metadataVersion, (await a.ok("GET", `/v3/sessions/${sid}/messages`)).messages.length];
seen.machine = (await a.ok("GET", `/v1/machines/${machineId}`)).machine?.daemonStateVersion;
seen.leaked = heard.list.filter((event) => [sid, artifactId, a.id, text].some((secret) => event.includes(secret)));
daemon.shutdown();
await client.close();
console.log(JSON.stringify(seen));
process.exit();
