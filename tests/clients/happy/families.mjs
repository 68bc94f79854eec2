// Both families on one account: upstream's terminal program and phone over Socket.IO, and an app and a daemon that speak the
// native protocol with a plain WebSocket. Each must see what the other does. The terminals may be at another worker than the apps.
import WebSocket from "ws";
import { App, Heard, listen, program, tag } from "./app.mjs";

const { url, apps, name, variant, home } = JSON.parse(process.argv[2]);
const { ApiClient } = await program(name, url, home);
const app = await App.login(apps);
const api = await ApiClient.create(await app.terminal(variant));
const seen = {};

/** A native client; `ask` is a frame with an acknowledgement. */
const native = async (at, query, headers = {}) => {
  const socket = new WebSocket(`${at.replace("http", "ws")}/v1/updates${query}`, { headers });
  const frames = new Heard();
  const updates = new Heard();
  const ephemerals = new Heard();
  let asked = 0;
  socket.on("message", (text) => {
    const frame = JSON.parse(text);
    frames.add(frame);
    if (frame.event === "update") updates.add(frame.data);
    if (frame.event === "ephemeral") ephemerals.add(frame.data);
  });
  const say = (frame) => socket.send(JSON.stringify(frame));
  const ask = async (event, data) => {
    const ackId = `ask-${++asked}`;
    say({ event, data, ackId });
    return (await frames.until((frame) => frame.event === "ack" && frame.ackId === ackId)).ack;
  };
  const update = async (t, fits = () => true) => (await updates.until(({ body }) => body.t === t && fits(body))).body;
  const ephemeral = (type, fits = () => true) => ephemerals.until((data) => data.type === type && fits(data));
  const connected = (await frames.until(({ event }) => event === "connected")).data;
  return { socket, frames, updates, say, ask, update, ephemeral, connected };
};

const phone = await app.socket();
const { ticket } = await app.ok("POST", "/v1/websocket/ticket");
const desk = await native(apps, `?ticket=${ticket}`);
seen.scope = desk.connected.clientType;

// The program opens a session: both apps learn of it, and read it.
const session = await api.getOrCreateSession({ tag: tag(), metadata: { path: home, host: "laptop" }, state: null });
const sid = session.id;
const announced = await desk.update("new-session", (body) => body.sid === sid);
const seal = app.seal(announced.dataEncryptionKey);
seen.announced = [seal.open(announced.metadata).host, (await phone.update("new-session", (body) => body.id === sid)).sid === sid];
const client = api.sessionSyncClient(session);
const said = new Heard();
client.onUserMessage((message) => said.add(message.content.text));
const told = await listen(client.socket);
await client.receiveSync?.invalidateAndAwait();

// Messages: from each to all others; one that is sent twice is there once.
const message = (text) => seal.close({ role: "user", content: { type: "text", text } });
const frame = { event: "message", data: { sid, message: message("from the desk"), localId: "desk-1" } };
desk.say(frame);
desk.say(frame);
await said.until((text) => text === "from the desk");
phone.emit("message", { sid, message: message("from the phone"), localId: "phone-1" });
await said.until((text) => text === "from the phone");
client.sendSessionEvent({ type: "message", message: "from the terminal" });
await client.flush();
const texts = (updates) => updates.list.filter(({ body }) => body.t === "new-message").map(({ body }) => seal.open(body.message.content.c).content).map(({ text, data }) => text ?? data.message);
await Promise.all([phone, desk].map(({ update }) => update("new-message", ({ message: { seq } }) => seq === 3)));
seen.said = said.list;
seen.desk = texts(desk.updates);
seen.phone = texts(phone.updates);

// One writes, the other two hear of it; a stale version is refused to either family alike.
const metadata = { sid, metadata: seal.close({ path: home, name: "by the desk" }), expectedVersion: session.metadataVersion };
seen.written = (await desk.ask("update-metadata", metadata)).result;
await told.updates.until(({ body }) => body.t === "update-session" && body.metadata);
seen.metadata = client.metadata.name;
seen.stale = [(await desk.ask("update-metadata", metadata)).result, (await phone.emitWithAck("update-metadata", metadata)).result];
client.updateAgentState(() => ({ requests: { r1: {} } }));
const state = await desk.update("update-session", (body) => body.agentState);
seen.state = [state.sid === sid, seal.open(state.agentState.value).requests.r1];

// Presence: of the program's session and daemon at the desk, of a native daemon at the phone.
client.keepAlive(true, "remote");
seen.alive = (await desk.ephemeral("activity", ({ thinking }) => thinking)).sid === sid;
const machineId = tag();
const machine = await api.getOrCreateMachine({ machineId, metadata: { host: "laptop" }, daemonState: { status: "offline" } });
const daemon = api.machineSyncClient(machine);
daemon.setRPCHandlers({ spawnSession: async () => ({ type: "success", sessionId: sid }), stopSession: () => true, requestShutdown: () => {} });
daemon.connect();
seen.online = (await desk.ephemeral("machine-activity", ({ machineId: id }) => id === machineId)).active;
const other = tag();
await app.ok("POST", "/v1/machines", { id: other, metadata: "sealed" });
const worker = await native(url, "", { authorization: `Bearer ${app.token}`, "x-client-type": "machine-scoped", "x-machine-id": other });
seen.worker = (await phone.ephemeral("machine-activity", ({ id }) => id === other)).active;

// Calls across: desk to program, desk to the program's daemon, phone to the native daemon, terminal to the native daemon.
const call = async (method, params, by) => {
  const ack = await desk.ask("rpc-call", { method, params: by.close(params) });
  return ack.ok ? by.open(ack.result) : ack;
};
seen.bash = (await call(`${sid}:bash`, { command: "echo across" }, seal)).stdout;
const machines = app.seal((await desk.update("new-machine", (body) => body.machineId === machineId)).dataEncryptionKey);
seen.spawned = (await call(`${machineId}:spawn-happy-session`, { directory: home }, machines)).type;
worker.say({ event: "rpc-register", data: { method: `${other}:run` } });
worker.socket.on("message", (text) => {
  const { event, data, ackId } = JSON.parse(text);
  if (event === "rpc-request") worker.say({ event: "rpc-response", ackId, ack: `${data.params} done` });
});
seen.ran = await phone.emitWithAck("rpc-call", { method: `${other}:run`, params: "phone" });
seen.crossed = await client.socket.emitWithAck("rpc-call", { method: `${other}:run`, params: "terminal" });
seen.nobody = await desk.ask("rpc-call", { method: `${tag()}:run`, params: "" });
// An answer goes to who asked, once.
const acks = [desk, worker].map(({ frames }) => frames.list.filter(({ event }) => event === "ack").map(({ ackId }) => ackId));
seen.acks = [new Set(acks[0]).size === acks[0].length, acks[1].length];

seen.stats = (await app.ok("GET", "/v1/websocket/stats")).byType;
daemon.shutdown();
seen.offline = (await desk.ephemeral("machine-activity", ({ machineId: id, active }) => id === machineId && !active)).machineId === machineId;
worker.socket.terminate();
seen.left = (await phone.ephemeral("machine-activity", ({ id, active }) => id === other && !active)).id === other;

await client.close();
await app.ok("DELETE", `/v1/sessions/${sid}`);
await Promise.all([phone.update("delete-session"), desk.update("delete-session")]);
const numbers = desk.updates.list.map(({ seq }) => seq);
seen.gapless = numbers.every((seq, at) => at === 0 || seq === numbers[at - 1] + 1);
// All but the phone's own message, which is not told back to its socket.
seen.missed = numbers.filter((seq) => !phone.updates.list.some((update) => update.seq === seq)).length;
desk.socket.terminate();
phone.disconnect();
console.log(JSON.stringify(seen));
process.exit();
