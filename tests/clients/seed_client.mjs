// A client of the base protocol as an app would write it: fetch, WebCrypto and the `ws` package, and nothing of Hapta.
// It keeps to what the protocol promises: wrapped vault keys (PBKDF2, AES-GCM), encrypted logs of single columns that share
// the stamp of their statement, a cursor that follows `sequence`, hints over a socket.
import { randomBytes, randomUUID, webcrypto } from "node:crypto";
import WebSocket from "ws";

const { subtle } = webcrypto;
const utf8 = new TextEncoder();
export const toBase64 = (bytes) => Buffer.from(bytes).toString("base64");
export const fromBase64 = (text) => new Uint8Array(Buffer.from(text, "base64"));

// --- the envelope: what the server gets to see is made here -------------------------------------------------------------

export async function wrappingKeyBits(password, salt) {
  const material = await subtle.importKey("raw", utf8.encode(password), "PBKDF2", false, ["deriveBits"]);
  return subtle.deriveBits({ name: "PBKDF2", hash: "SHA-256", salt, iterations: 600_000 }, material, 256);
}

const aesKey = (raw) => subtle.importKey("raw", raw, "AES-GCM", false, ["encrypt", "decrypt"]);

export async function encrypt(rawKey, nonce, plain) {
  return toBase64(await subtle.encrypt({ name: "AES-GCM", iv: nonce }, await aesKey(rawKey), plain));
}

export async function decrypt(rawKey, nonce, text) {
  const sealed = fromBase64(text);
  return new Uint8Array(await subtle.decrypt({ name: "AES-GCM", iv: fromBase64(nonce) }, await aesKey(rawKey), sealed));
}

// --- the clock: one stamp for each statement, shared by all the logs it causes ------------------------------------------

export class HybridClock {
  #last = 0n;

  constructor(deviceId) {
    const bytes = Buffer.from(deviceId.replaceAll("-", ""), "hex").reverse(); // read as a little-endian number
    this.node = BigInt(`0x${bytes.toString("hex")}`).toString(16);
  }

  next() {
    const now = ((BigInt(Date.now()) << 32n) / 1000n) & ~0xfn;
    this.#last = now > (this.#last & ~0xfn) ? now : this.#last + 1n;
    return `${this.#last}/${this.node}`;
  }
}

// --- the client ---------------------------------------------------------------------------------------------------------

export class SeedClient {
  constructor(url) {
    this.url = url;
    this.deviceId = randomUUID();
    this.clock = new HybridClock(this.deviceId);
    this.sequence = 0; // our own count, which travels inside each log; the server gives its own
    this.cursor = 0;
  }

  async call(method, path, body) {
    const headers = { ...(this.token && { Authorization: `Bearer ${this.token}` }) };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const answer = await fetch(this.url + path, { method, headers, body: body && JSON.stringify(body) });
    return { status: answer.status, body: await answer.json() };
  }

  async enter(path, email, password) {
    const { status, body } = await this.call("POST", path, { email, password });
    if (typeof body.token !== "string" || typeof body.user?.id !== "string") throw new Error(`${path}: ${status}`);
    this.token = body.token;
    return status;
  }

  // The vault's key: fetched, or made and stored when there is none; when another device was faster, fetched again.
  async openVault(vaultId, password) {
    this.vaultId = vaultId;
    const found = await this.call("GET", `/sync/vault-key/${vaultId}`);
    if (found.status === 404) {
      const key = randomBytes(32);
      const [salt, nonce] = [randomBytes(32), randomBytes(12)];
      const encryptedVaultKey = await encrypt(await wrappingKeyBits(password, salt), nonce, key);
      const wrapped = { vaultId, encryptedVaultKey, salt: toBase64(salt), nonce: toBase64(nonce) };
      const stored = await this.call("POST", "/sync/vault-key", wrapped);
      if (stored.status === 409) return this.openVault(vaultId, password);
      if (stored.status !== 201) throw new Error(`storing a key: ${JSON.stringify(stored)}`);
      this.key = key;
      return "made";
    }
    // Older clients read these fields at the top level of the answer, later ones below `vaultKey`.
    const opened = [];
    for (const { encryptedVaultKey, salt, nonce } of [found.body, found.body.vaultKey]) {
      const bits = await wrappingKeyBits(password, fromBase64(salt));
      opened.push(toBase64(await decrypt(bits, nonce, encryptedVaultKey)));
    }
    if (opened[0] !== opened[1]) throw new Error("the two forms of the answer hold different keys");
    this.key = fromBase64(opened[0]);
    return "fetched";
  }

  // The logs of one statement: one for each column and one for the stamp's own column, all with one stamp.
  async statement(opType, table, id, columns) {
    const haexTimestamp = this.clock.next();
    const written = opType === "DELETE" ? [[null, null]] : [...Object.entries(columns), ["haex_timestamp", haexTimestamp]];
    const logs = [];
    for (const [columnName, value] of written) {
      const row = {
        id: randomUUID(),
        haexTimestamp,
        tableName: table,
        rowPks: JSON.stringify({ id }),
        opType,
        columnName,
        newValue: columnName === null ? null : JSON.stringify({ value }),
        oldValue: null,
      };
      const nonce = randomBytes(12);
      const encryptedData = await encrypt(this.key, nonce, utf8.encode(JSON.stringify(row)));
      this.sequence += 1;
      logs.push({ vaultId: this.vaultId, sequence: this.sequence, encryptedData, nonce: toBase64(nonce), haexTimestamp });
    }
    return logs;
  }

  async push(logs) {
    const { status, body } = await this.call("POST", "/sync/push", { vaultId: this.vaultId, logs });
    if (status !== 200 || body.count !== logs.length) throw new Error(`push: ${status} ${JSON.stringify(body)}`);
    return body.logs;
  }

  // Everything after the cursor, page by page; the cursor is the last sequence that was read.
  async pull(limit) {
    const pages = [];
    for (let more = true; more; ) {
      const asked = { vaultId: this.vaultId, afterSequence: this.cursor, limit };
      const { status, body } = await this.call("POST", "/sync/pull", asked);
      if (status !== 200) throw new Error(`pull: ${status} ${JSON.stringify(body)}`);
      const page = [];
      for (const log of body.logs) {
        const plain = await decrypt(this.key, log.nonce, log.encryptedData);
        page.push({ sequence: log.sequence, haexTimestamp: log.haexTimestamp, ...JSON.parse(Buffer.from(plain)) });
        this.cursor = log.sequence;
      }
      pages.push(page);
      more = body.hasMore;
    }
    return pages;
  }

  // Listens until something was pushed; `subscribed` is told the head from which on nothing is missed.
  async waitForNews(subscribed) {
    const socket = new WebSocket(`${this.url.replace("http", "ws")}/sync/ws`);
    return new Promise((resolve, reject) => {
      socket.on("open", () => {
        socket.send(JSON.stringify({ type: "auth", token: this.token }));
        socket.send(JSON.stringify({ type: "subscribe", vaultId: this.vaultId, afterSequence: this.cursor }));
      });
      socket.on("message", (data) => {
        const frame = JSON.parse(data);
        if (frame.type === "subscribed") subscribed(frame);
        if (frame.type === "logs") {
          socket.close();
          resolve(frame);
        }
      });
      socket.on("close", (code) => reject(new Error(`closed with ${code}`)));
      socket.on("error", reject);
    });
  }
}

// The rows that logs add up to: the last writer of a column wins, and a delete hides what was written before it.
export function rowsOf(logs) {
  const cells = new Map();
  const order = (log) => {
    const [time, node] = log.haexTimestamp.split("/");
    return [BigInt(time), BigInt(`0x${node}`)];
  };
  const later = (a, b) => a[0] > b[0] || (a[0] === b[0] && a[1] > b[1]);
  for (const log of logs) {
    const row = `${log.tableName} ${log.rowPks}`;
    const columns = cells.get(row) ?? cells.set(row, new Map()).get(row);
    const column = log.columnName ?? null; // a delete names none
    const known = columns.get(column);
    if (!known || later(order(log), order(known))) columns.set(column, log);
  }
  const rows = {};
  for (const columns of cells.values()) {
    const deleted = columns.get(null);
    for (const [name, log] of columns) {
      if (name === null || name === "haex_timestamp" || (deleted && !later(order(log), order(deleted)))) continue;
      const table = (rows[log.tableName] ??= {});
      (table[JSON.parse(log.rowPks).id] ??= {})[name] = JSON.parse(log.newValue).value;
    }
  }
  return rows;
}
