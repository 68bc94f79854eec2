// The relay through the official client of Socket.IO, as upstream's programs use it. Prints what it saw as one line of JSON.
import { io } from "socket.io-client";

const { url, transports, upgrades } = JSON.parse(process.argv[2]);
const seen = {};

const open = (auth, more = {}) =>
  io(url, { path: "/v1/updates", transports, auth, reconnection: false, forceNew: true, ...more });
const once = (socket, event) => new Promise((resolve) => socket.once(event, resolve));
const upgraded = async (socket) => {
  if (upgrades && socket.io.engine.transport.name !== "websocket") await once(socket.io.engine, "upgrade");
};
const connected = async (auth, more) => {
  const socket = open(auth, more);
  await once(socket, "connect");
  await upgraded(socket);
  return socket;
};
const refusal = async (auth) => {
  const socket = open(auth);
  const error = await once(socket, "connect_error");
  return [error.message, socket.active];
};

seen.refusals = [
  await refusal({}),
  await refusal({ token: "nobody" }),
  await refusal({ token: "a", clientType: "session-scoped" }),
  await refusal({ token: "a", clientType: "machine-scoped" }),
];

// A daemon says what it answers as soon as it is connected, as upstream's does.
const machine = open({ token: "a", clientType: "machine-scoped", machineId: "m1" });
machine.on("rpc-request", (data, answer) => answer(`${data.method} ${data.params}`));
machine.on("connect", () => machine.emit("rpc-register", { method: "m1:run" }));
seen.registered = await once(machine, "rpc-registered");
await upgraded(machine);

const app = await connected({ token: "a", clientType: "user-scoped" });
const other = await connected({ token: "a" });
const stranger = await connected({ token: "b" });
seen.transports = [machine, app, other].map((socket) => socket.io.engine.transport.name);

seen.ping = await app.emitWithAck("ping");
seen.call = await app.timeout(120000).emitWithAck("rpc-call", { method: "m1:run", params: "p" });
seen.nobody = await app.timeout(120000).emitWithAck("rpc-call", { method: "m2:run", params: "p" });
seen.strangers = await stranger.timeout(120000).emitWithAck("rpc-call", { method: "m1:run", params: "p" });
seen.invalid = await app.emitWithAck("update-metadata", { sid: 1 });

let strange = 0;
stranger.onAny(() => strange++);
const heard = once(other, "update");
const artifact = { id: "01900000-0000-7000-8000-0000000000f1", header: "aGVhZA==", body: "Ym9keQ==", dataEncryptionKey: "a2V5" };
seen.artifact = (await app.emitWithAck("artifact-create", artifact)).result;
seen.update = (await heard).body.t;

const relayed = once(app, "session-revived");
machine.emit("session-revived", { sessionId: "s1" }, "an argument too many");
seen.relayed = await relayed;

const closing = once(other, "disconnect");
const binary = await other.timeout(120000).emitWithAck("message", { sid: "s1", message: new Uint8Array([1, 2, 3]) });
seen.binary = binary.message;
other.disconnect();
seen.reason = await closing;

machine.off("rpc-request");
machine.on("rpc-request", () => machine.disconnect());
seen.gone = await app.timeout(120000).emitWithAck("rpc-call", { method: "m1:run", params: "p" });
seen.strange = strange;
for (const socket of [app, stranger]) socket.disconnect();
console.log(JSON.stringify(seen));
