// A native client of the relay, made of fetch and `ws` alone: tickets, scope by header, signing in by a message, one message twice.
import WebSocket from "ws";

const { url, token } = JSON.parse(process.argv[2]);
const address = url.replace("http", "ws") + "/v1/updates";
const bearer = { authorization: `Bearer ${token}` };

const call = async (method, path, body) => {
  const headers = { ...bearer, ...(body && { "content-type": "application/json" }) };
  const answer = await fetch(url + path, { method, headers, body: body && JSON.stringify(body) });
  return { status: answer.status, body: await answer.json() };
};

const open = (query, headers) => {
  const socket = new WebSocket(address + query, { headers });
  socket.frames = [];
  socket.waiting = [];
  socket.on("message", (data) => {
    socket.frames.push(JSON.parse(data));
    socket.waiting.forEach((look) => look());
  });
  socket.until = (wanted) =>
    new Promise((resolve) => {
      const look = () => {
        const found = socket.frames.find(wanted);
        if (found) resolve(found);
      };
      socket.waiting.push(look);
      look();
    });
  socket.say = (frame) => socket.send(JSON.stringify(frame));
  return socket;
};
const connected = (socket) => socket.until(({ event }) => event === "connected");
const refused = (query, headers) =>
  new Promise((resolve) => {
    const socket = new WebSocket(address + query, { headers });
    socket.on("unexpected-response", (_, answer) => resolve(answer.statusCode));
    socket.on("open", () => resolve(101));
    socket.on("error", () => {});
  });

const ticket = (await call("POST", "/v1/websocket/ticket")).body.ticket;
const user = open(`?ticket=${ticket}`);
const first = await connected(user);
const again = await refused(`?ticket=${ticket}`);
const stranger = await refused("?token=unknown");

const machine = open("", { ...bearer, "X-Client-Type": "machine-scoped", "X-Machine-Id": "machine-1" });
const second = await connected(machine);

const created = await call("POST", "/v1/sessions", { tag: "t", metadata: "{}", agentState: null, dataEncryptionKey: null });
const session = created.body.session.id;
const announced = await user.until(({ event, data }) => event === "update" && data.body.t === "new-session");

const agent = open("");
await new Promise((resolve) => agent.on("open", resolve));
agent.say({ event: "auth", data: { token, clientType: "session-scoped", sessionId: session } });
const third = await connected(agent);

const message = { event: "message", data: { sid: session, message: "c2VhbGVk", localId: "local-1" } };
agent.say(message);
agent.say(message);
agent.say({ event: "update-metadata", ackId: "a1", data: { sid: session, metadata: "{\"x\":1}", expectedVersion: created.body.session.metadataVersion } });
const ack = await agent.until(({ event, ackId }) => event === "ack" && ackId === "a1");
const changed = await user.until(({ event, data }) => event === "update" && data.body.t === "update-session");
const messages = user.frames.filter(({ event, data }) => event === "update" && data.body.t === "new-message");

machine.say({ event: "broadcast", data: { hello: "all" } });
await user.until(({ event }) => event === "broadcast");
await agent.until(({ event }) => event === "broadcast");
const stats = await call("GET", "/v1/websocket/stats");
const sequence = user.frames.filter(({ event }) => event === "update").map(({ data }) => data.seq);

const closed = new Promise((resolve) => user.on("close", resolve));
user.close(1000);
await closed;
machine.terminate();
agent.terminate();

console.log(
  JSON.stringify({
    kinds: [first, second, third].map(({ data }) => data.clientType),
    ids: [second.data.machineId, third.data.sessionId === session],
    again,
    stranger,
    announced: announced.data.body.sid === session && announced.data.body.id === session,
    messages: messages.length,
    ack: ack.ack,
    changed: changed.data.body.metadata,
    sequence,
    stats: stats.body.byType,
  }),
);
