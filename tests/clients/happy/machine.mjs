// A daemon's life: the machine, its presence, and the calls by which the app starts and stops sessions on it.
import { App, listen, program, tag } from "./app.mjs";

const { url, name, variant, home } = JSON.parse(process.argv[2]);
const { ApiClient } = await program(name, url, home);
const app = await App.login(url);
const phone = await app.socket();
const api = await ApiClient.create(await app.terminal(variant));
const seen = {};

const machineId = tag();
const metadata = { host: "laptop", platform: "linux", happyCliVersion: "0", homeDir: home, happyHomeDir: home, happyLibDir: home };
const machine = await api.getOrCreateMachine({ machineId, metadata, daemonState: { status: "offline", httpPort: 4000 } });
const announced = await phone.update("new-machine", (body) => body.machineId === machineId);
const seal = app.seal(announced.dataEncryptionKey);
seen.announced = [seal.variant, seal.open(announced.metadata).host, announced.active, announced.daemonStateVersion];
seen.created = [machine.id === machineId, machine.metadata.host, machine.daemonState.status];
seen.again = (await api.getOrCreateMachine({ machineId, metadata: { host: "other" } })).metadataVersion === machine.metadataVersion;

const asked = [];
const daemon = api.machineSyncClient(machine);
let stop;
const stopping = new Promise((resolve) => (stop = resolve));
daemon.setRPCHandlers({
  spawnSession: async (options) => {
    asked.push(options.directory);
    if (options.directory === "/new") return { type: "requestToApproveDirectoryCreation", directory: "/new" };
    return { type: "success", sessionId: "spawned" };
  },
  resumeSession: async (id) => ({ type: "success", sessionId: id }),
  stopSession: (id) => id === "spawned",
  requestShutdown: stop,
});
daemon.connect();
await listen(daemon.socket);
const online = await phone.ephemeral("machine-activity", ({ active }) => active);
seen.online = [online.id === machineId, online.machineId === machineId];
const running = await phone.update("update-machine", (body) => body.daemonState?.version === 2);
seen.running = [running.machineId === machineId, seal.open(running.daemonState.value).status];

// What is called before the daemon has said all that it answers waits for it; then all are known.
const call = (method, params) => phone.rpc(seal, `${machineId}:${method}`, params);
seen.spawned = await call("spawn-happy-session", { directory: home, machineId });
seen.approval = await call("spawn-happy-session", { directory: "/new", machineId });
seen.wrong = await call("spawn-happy-session", {});
seen.asked = asked.map((directory) => directory === home || directory);
if (name === "happy") seen.resumed = await call("resume-happy-session", { sessionId: "s1" });
seen.stopped = [await call("stop-session", { sessionId: "spawned" }), await call("stop-session", { sessionId: "other" })];
seen.bash = (await call("bash", { command: "echo daemon" })).stdout;
seen.unknown = await phone.emitWithAck("rpc-call", { method: `${tag()}:bash`, params: "" });
seen.itself = await daemon.socket.emitWithAck("rpc-call", { method: `${machineId}:bash`, params: "" });

// The app names the machine; the daemon writes over what it has heard of.
await daemon.updateMachineMetadata((current) => ({ ...current, displayName: "mine" }));
const named = await phone.update("update-machine", (body) => body.metadata && seal.open(body.metadata.value).displayName === "mine");
seen.named = named.metadata.version === daemon.machine.metadataVersion;
let result = "version-mismatch";
for (let version = named.metadata.version; result === "version-mismatch"; ) {
  const text = seal.close({ ...daemon.machine.metadata, displayName: "theirs" });
  const ack = await phone.emitWithAck("machine-update-metadata", { machineId, metadata: text, expectedVersion: version });
  ({ result, version } = ack);
}
await daemon.updateMachineMetadata((current) => ({ ...current, seen: current.displayName }));
seen.renamed = [result, daemon.machine.metadata.seen];

const bare = await app.ok("GET", "/v1/machines");
const wrapped = (await app.call("GET", "/v1/machines", undefined, {})).body;
seen.listed = [bare.map(({ id, active }) => [id === machineId, active]), wrapped.machines.length];

seen.stopping = await call("stop-daemon", {});
await stopping;
// The app may ask right before the daemon goes, and right after.
daemon.shutdown();
const offline = await phone.ephemeral("machine-activity", ({ active }) => !active);
seen.offline = [offline.id === machineId, offline.machineId === machineId];
seen.missing = await call("stop-session", { sessionId: "spawned" });
seen.after = (await app.ok("GET", "/v1/machines"))[0].active;
seen.deleted = [(await app.call("DELETE", `/v1/machines/${machineId}`)).status, (await app.call("DELETE", `/v1/machines/${machineId}`)).status];
seen.gone = (await phone.update("delete-machine")).machineId === machineId;
phone.disconnect();
console.log(JSON.stringify(seen));
process.exit();
