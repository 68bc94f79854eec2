// What the tests let the client of the base protocol do, one step a call; each prints what it saw as lines of JSON.
import { SeedClient, decrypt, encrypt, rowsOf, toBase64, wrappingKeyBits } from "./seed_client.mjs";

const given = JSON.parse(process.argv[2]);
const say = (value) => console.log(JSON.stringify(value));
const bytes = (first, count) => Uint8Array.from({ length: count }, (_, index) => first + index);

async function opened() {
  const client = new SeedClient(given.url);
  const entered = await client.enter(given.register ? "/auth/register" : "/auth/login", given.email, given.password);
  return { client, entered, key: await client.openVault(given.vaultId, given.password) };
}

const steps = {
  // The published vector, computed anew and opened again.
  async vector() {
    const nonce = bytes(0, 12);
    const kek = await wrappingKeyBits(given.password, bytes(0, 32));
    const encryptedVaultKey = await encrypt(kek, nonce, bytes(32, 32));
    const encryptedData = await encrypt(bytes(32, 32), nonce, new TextEncoder().encode(given.plaintext));
    const vaultKey = await decrypt(kek, toBase64(nonce), given.encryptedVaultKey);
    const plaintext = Buffer.from(await decrypt(vaultKey, toBase64(nonce), given.encryptedData)).toString();
    const hex = (data) => Buffer.from(data).toString("hex");
    return { kek: hex(kek), encryptedVaultKey, encryptedData, vaultKey: hex(vaultKey), plaintext };
  },

  // Statements become logs and are pushed at once; then everything is read back.
  async write() {
    const { client, entered, key } = await opened();
    const logs = [];
    for (const [opType, table, id, columns] of given.statements) logs.push(...(await client.statement(opType, table, id, columns)));
    const stored = await client.push(logs);
    const again = await client.push(logs);
    const pages = await client.pull(given.limit);
    return { entered, key, sent: logs, stored, again, pages, rows: rowsOf(pages.flat()) };
  },

  async read() {
    const { client, entered, key } = await opened();
    const pages = await client.pull(given.limit);
    return { entered, key, pages, rows: rowsOf(pages.flat()) };
  },

  // Says when it listens, waits for a hint, and reads what it stands for.
  async listen() {
    const { client } = await opened();
    const hint = await client.waitForNews(say);
    return { hint, rows: rowsOf((await client.pull(given.limit)).flat()) };
  },

  // Two devices open a new vault at once: one makes the key, the other gets to know it.
  async race() {
    const first = new SeedClient(given.url);
    await first.enter("/auth/login", given.email, given.password);
    const clients = [first, ...Array.from({ length: 3 }, () => Object.assign(new SeedClient(given.url), { token: first.token }))];
    const outcomes = await Promise.all(clients.map((client) => client.openVault(given.vaultId, given.password)));
    return { outcomes, keys: new Set(clients.map((client) => toBase64(client.key))).size };
  },
};

say(await steps[given.step]());
