// Many at once: each of them must come to the same end (contract relay, section 20 F).
import { App, program, tag } from "./app.mjs";

const { url, name, home } = JSON.parse(process.argv[2]);
const { ApiClient } = await program(name, url, home);
const app = await App.login(url);
const phone = await app.socket();
const api = await ApiClient.create(await app.terminal("legacy"));
const many = (count, one) => Promise.all(Array.from({ length: count }, (_, at) => one(at)));
const seen = {};

const opts = { tag: tag(), metadata: { path: home, host: "laptop" }, state: null };
const sessions = await many(20, () => api.getOrCreateSession(opts));
seen.sessions = new Set(sessions.map(({ id }) => id)).size;
const sid = sessions[0].id;
const machineId = tag();
const machines = await many(20, () => api.getOrCreateMachine({ machineId, metadata: { host: "laptop" } }));
seen.machines = new Set(machines.map(({ id, metadataVersion }) => `${id} ${metadataVersion}`)).size;
await phone.update("new-machine");
seen.announced = phone.updates.list.filter(({ body }) => body.t === "new-session").length;

const version = sessions[0].agentStateVersion;
const states = await many(20, (at) => phone.emitWithAck("update-state", { sid, agentState: `${at}`, expectedVersion: version }));
const results = states.map(({ result }) => result);
seen.states = [...new Set(results)].sort().map((result) => [result, results.filter((other) => other === result).length]);

const path = `/v3/sessions/${sid}/messages`;
await many(50, (at) => app.ok("POST", path, { messages: [{ content: "c2VhbGVk", localId: `local-${at}` }] }));
seen.seqs = (await app.ok("GET", `${path}?limit=500`)).messages.map(({ seq }) => seq);

// Two batches over the same two keys in opposite order: one wins both, the other changes nothing.
const batch = (keys, value) => app.call("POST", "/v1/kv", { mutations: keys.map((key) => ({ key, value, version: -1 })) });
const outcomes = await Promise.all([batch(["one", "two"], "YQ=="), batch(["two", "one"], "Yg==")]);
const { items } = await app.ok("GET", "/v1/kv");
seen.batches = [outcomes.filter(({ status }) => status === 200).length, new Set(items.map(({ value }) => value)).size];
phone.disconnect();
console.log(JSON.stringify(seen));
process.exit();
