// An account with clients of the native protocol alone (contract relay, section 20 D), made of fetch and `ws`.
import WebSocket from "ws";
import { App, Heard } from "./app.mjs";

const { url } = JSON.parse(process.argv[2]);
const app = await App.login(url);
const seen = {};

const open = (query = "", headers = {}) => {
  const socket = new WebSocket(`${url.replace("http", "ws")}/v1/updates${query}`, { headers });
  socket.frames = new Heard();
  socket.on("message", (text) => socket.frames.add(JSON.parse(text)));
  socket.ended = new Promise((resolve) => socket.on("close", resolve));
  socket.say = (frame) => socket.send(JSON.stringify(frame));
  socket.event = async (name) => (await socket.frames.until(({ event }) => event === name)).data;
  socket.update = (t) => socket.frames.until(({ event, data }) => event === "update" && data.body.t === t);
  return socket;
};
const opened = (socket) => new Promise((resolve) => socket.on("open", resolve));

// One that says nothing has its time; one with a wrong token is sent away at once.
const silent = open();
const wrong = open();
await opened(wrong);
wrong.say({ event: "auth", data: { token: "unknown", clientType: "user-scoped" } });

const { session } = await app.ok("POST", "/v1/sessions", { tag: "t", metadata: "sealed" });
await app.ok("POST", "/v1/machines", { id: "m", metadata: "sealed" });
const { ticket } = await app.ok("POST", "/v1/websocket/ticket");
const user = open(`?ticket=${ticket}`);
await user.event("connected");
const machine = open("", { authorization: `Bearer ${app.token}`, "X-Client-Type": "machine-scoped", "X-Machine-Id": "m" });
await machine.event("connected");
const agent = open();
await opened(agent);
agent.say({ event: "auth", data: { token: app.token, clientType: "session-scoped", sessionId: session.id } });
seen.scopes = [];
for (const socket of [user, machine, agent]) seen.scopes.push((await socket.event("connected")).clientType);

// A call reaches the machine, and its answer only who asked. No method is registered: the machine's name is enough.
machine.on("message", (text) => {
  const { event, ackId } = JSON.parse(text);
  if (event === "rpc-request") machine.say({ event: "rpc-response", ackId, ack: "done" });
});
user.say({ event: "rpc-call", ackId: "call-1", data: { method: "m:run", params: "c2VhbGVk" } });
seen.rpc = (await user.frames.until(({ event, ackId }) => event === "ack" && ackId === "call-1")).ack;

const message = { event: "message", data: { sid: session.id, message: "c2VhbGVk", localId: "local-1" } };
user.say(message);
user.say(message);
await agent.update("new-message");
seen.rows = (await app.ok("GET", `/v3/sessions/${session.id}/messages`)).messages.length;

seen.deleted = [(await app.call("DELETE", `/v1/sessions/${session.id}`)).status === 200];
seen.deleted.push((await user.update("delete-session")).data.body.sid === session.id);
seen.wrong = [[(await wrong.event("auth-error")).code], await wrong.ended];
seen.silent = [[(await silent.event("auth-error")).code], await silent.ended];
// All frames of before are here: what a socket was told, it was told in order, and the last was long ago.
const count = (socket, fits) => socket.frames.list.filter(fits).length;
seen.acks = [user, machine, agent].map((socket) => count(socket, ({ event }) => event === "ack"));
seen.updates = [user, machine, agent].map((socket) => count(socket, ({ event, data }) => event === "update" && data.body.t === "new-message"));
for (const socket of [user, machine, agent]) socket.terminate();
console.log(JSON.stringify(seen));
process.exit();
