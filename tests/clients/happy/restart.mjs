// The server of the terminals is killed in the middle of everything. Whoever runs this does it at each line `{"kill": true}`, and starts it again.
import { App, Heard, listen, program, tag } from "./app.mjs";

const { url, apps, name, variant, home } = JSON.parse(process.argv[2]);
const { ApiClient } = await program(name, url, home);
const app = await App.login(apps);
const phone = await app.socket();
const api = await ApiClient.create(await app.terminal(variant));
const machineId = tag();
const session = await api.getOrCreateSession({ tag: tag(), metadata: { path: home, host: "laptop" }, state: null });
const machine = await api.getOrCreateMachine({ machineId, metadata: { host: "laptop" } });
const client = api.sessionSyncClient(session);
const said = new Heard();
client.onUserMessage((message) => said.add(message.content.text));
const daemon = api.machineSyncClient(machine);
daemon.setRPCHandlers({ spawnSession: async () => ({ type: "success", sessionId: "s" }), stopSession: () => true, requestShutdown: () => {} });
daemon.connect();
await Promise.all([listen(client.socket), listen(daemon.socket)]);
await client.receiveSync?.invalidateAndAwait();
const sid = session.id;
const seal = app.seal((await phone.update("new-session")).dataEncryptionKey);
const back = (socket) => new Promise((resolve) => socket.once("disconnect", () => socket.once("connect", resolve)));
const apart = apps !== url; // the apps are at a worker that lives on
const all = Promise.all([...(apart ? [] : [phone]), client.socket, daemon.socket].map(back));
const path = `/v3/sessions/${sid}/messages`;
const message = (text) => seal.close({ role: "user", content: { type: "text", text }, meta: { sentFrom: "ios" } });
const seen = {};

client.sendSessionEvent({ type: "message", message: "before" });
await client.flush();

// One request after the other, each said again until it is acknowledged; the server dies while they run.
const COUNT = 60;
let failed = 0;
const writing = (async () => {
  for (let i = 0; i < COUNT; i++) {
    const body = { messages: [{ content: message(`message ${i}`), localId: `local-${i}` }] };
    if (i === 20) console.log(JSON.stringify({ kill: true }));
    for (;;) {
      try {
        await app.ok("POST", path, body);
        break;
      } catch (error) {
        if (!(error instanceof TypeError)) throw error; // anything but a broken connection
        failed++;
        if (!phone.connected) await new Promise((resolve) => phone.once("connect", resolve));
      }
    }
    // What the server dies over must not be all that is left to write.
    if (i === 40) await all;
  }
})();
client.socket.once("disconnect", () => client.sendSessionEvent({ type: "message", message: "while it was down" }));
// Asked for while it is away, where the app's own worker lives on: the call waits for it to come back.
const early = new Promise((resolve) => {
  client.socket.once("disconnect", () => resolve(apart ? phone.rpc(seal, `${sid}:bash`, { command: "echo early" }) : null));
});
await Promise.all([writing, all]);
await client.flush();
if (name === "happy") {
  await said.until((text) => text === `message ${COUNT - 1}`);
  // What it fetches anew after a lost connection may hold what a live update has told it meanwhile: it shows both.
  seen.said = [...new Set(said.list)].filter((text, at) => text !== `message ${at}`);
}
const found = [];
for (let after = 0, more = true; more; ) {
  const page = await app.ok("GET", `${path}?after_seq=${after}&limit=100`);
  found.push(...page.messages);
  more = page.hasMore;
  after = found.at(-1).seq;
}
seen.broken = failed > 0;
seen.gapless = found.every(({ seq }, at) => seq === at + 1);
const kept = found.filter(({ localId }) => localId?.startsWith("local-")).map(({ localId }) => localId);
seen.kept = kept.length === COUNT && kept.every((id, at) => id === `local-${at}`);
const events = found.map(({ content }) => seal.open(content.c)).filter(({ role }) => role === "agent");
seen.events = events.map(({ content }) => content.data.message);

seen.early = (await early)?.stdout ?? null;
// All are where they were: calls reach both, presence is told anew, and the app's words arrive.
seen.bash = (await phone.rpc(seal, `${sid}:bash`, { command: "echo again" })).stdout;
const machines = app.seal((await app.ok("GET", "/v1/machines"))[0].dataEncryptionKey);
seen.spawned = (await phone.rpc(machines, `${machineId}:spawn-happy-session`, { directory: home })).type;
seen.online = (await app.ok("GET", "/v1/machines"))[0].active;
phone.emit("message", { sid, message: message("the last"), localId: "the-last" });
await said.until((text) => text === "the last");
const numbers = phone.updates.list.map(({ seq }) => seq);
seen.rising = numbers.every((seq, at) => at === 0 || seq > numbers[at - 1]);
console.log(JSON.stringify(seen));
process.exit();
