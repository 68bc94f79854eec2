// The other side of the terminal programs, as upstream's phone app is: it holds the account's secret, approves terminals, reads
// and writes what only it and they can read. Written from the wire alone; it shares no code with the server or with the programs.
import { createCipheriv, createDecipheriv, randomBytes, randomUUID } from "node:crypto";
import { mkdirSync } from "node:fs";
import os from "node:os";
import nacl from "tweetnacl";
import { io } from "socket.io-client";

export const base64 = (bytes) => Buffer.from(bytes).toString("base64");
export const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));
const random = (length) => new Uint8Array(randomBytes(length));

/** Everything that arrived, and a promise for what is still to come. */
export class Heard {
  list = [];
  #waiting = new Set();

  add(thing) {
    this.list.push(thing);
    for (const look of this.#waiting) look();
  }

  /** The first that fits, among those of before too. */
  until(fits) {
    return new Promise((resolve) => {
      const look = () => {
        const found = this.list.find(fits);
        if (found === undefined) return;
        this.#waiting.delete(look);
        resolve(found);
      };
      this.#waiting.add(look);
      look();
    });
  }
}

/** What a session or a machine is encrypted with: the account's secret, or a key of its own. */
export class Seal {
  constructor(variant, key) {
    this.variant = variant;
    this.key = key;
  }

  close(value) {
    const plain = new TextEncoder().encode(JSON.stringify(value));
    if (this.variant === "legacy") {
      const nonce = random(24);
      return base64(Buffer.concat([nonce, nacl.secretbox(plain, nonce, this.key)]));
    }
    const nonce = random(12);
    const cipher = createCipheriv("aes-256-gcm", this.key, nonce);
    return base64(Buffer.concat([Uint8Array.of(0), nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()]));
  }

  open(text) {
    const sealed = bytes(text);
    if (this.variant === "legacy") {
      const plain = nacl.secretbox.open(sealed.slice(24), sealed.slice(0, 24), this.key);
      return JSON.parse(new TextDecoder().decode(plain));
    }
    const decipher = createDecipheriv("aes-256-gcm", this.key, sealed.slice(1, 13));
    decipher.setAuthTag(sealed.slice(-16));
    return JSON.parse(Buffer.concat([decipher.update(sealed.slice(13, -16)), decipher.final()]).toString());
  }
}

export const boxFor = (plain, publicKey) => {
  const once = nacl.box.keyPair();
  const nonce = random(24);
  return Buffer.concat([once.publicKey, nonce, nacl.box(plain, nonce, publicKey, once.secretKey)]);
};
export const openBox = (sealed, secretKey) =>
  nacl.box.open(sealed.slice(56), sealed.slice(32, 56), sealed.slice(0, 32), secretKey);

export class App {
  static async login(url, secret = random(32)) {
    const app = new App();
    app.url = url;
    app.secret = secret;
    app.content = nacl.box.keyPair();
    const keys = nacl.sign.keyPair.fromSeed(secret);
    const challenge = random(32);
    const body = {
      publicKey: base64(keys.publicKey),
      challenge: base64(challenge),
      signature: base64(nacl.sign.detached(challenge, keys.secretKey)),
    };
    app.token = (await app.ok("POST", "/v1/auth", body)).token;
    app.id = (await app.ok("GET", "/v1/account/profile")).id;
    return app;
  }

  async call(method, path, body, headers = { "x-happy-client": "ios/1.7.0" }) {
    const answer = await fetch(this.url + path, {
      method,
      headers: {
        ...headers,
        ...(this.token && { authorization: `Bearer ${this.token}` }),
        ...(body !== undefined && { "content-type": "application/json" }),
      },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const text = await answer.text();
    return { status: answer.status, body: text === "" ? null : JSON.parse(text) };
  }

  async ok(method, path, body) {
    const { status, body: found } = await this.call(method, path, body);
    if (status !== 200) throw new Error(`${method} ${path}: ${status} ${JSON.stringify(found)}`);
    return found;
  }

  status(publicKey) {
    return this.ok("GET", `/v1/auth/request/status?publicKey=${encodeURIComponent(base64(publicKey))}`);
  }

  /** Approves a terminal whose code was scanned, with the secret itself for one that knows no better (V1). */
  async approve(publicKey, newest = true) {
    const { status, supportsV2 } = await this.status(publicKey);
    if (status !== "pending") throw new Error(`the terminal is ${status}`);
    const plain = supportsV2 && newest ? Buffer.concat([Uint8Array.of(0), this.content.publicKey]) : this.secret;
    const body = { publicKey: base64(publicKey), response: base64(boxFor(plain, publicKey)) };
    await this.ok("POST", "/v1/auth/response", body);
    return body;
  }

  /** A terminal's credentials, by the very requests that a terminal makes. */
  async terminal(variant) {
    const keys = nacl.box.keyPair();
    const ask = { publicKey: base64(keys.publicKey), supportsV2: variant === "dataKey" };
    await this.ok("POST", "/v1/auth/request", ask);
    await this.approve(keys.publicKey);
    const { token, response } = await this.ok("POST", "/v1/auth/request", ask);
    const plain = openBox(bytes(response), keys.secretKey);
    const encryption =
      plain.length === 32
        ? { type: "legacy", secret: plain }
        : { type: "dataKey", publicKey: plain.slice(1, 33), machineKey: random(32) };
    return { token, encryption };
  }

  /** The seal of what came with this key of its own, or with none. */
  seal(dataEncryptionKey) {
    if (dataEncryptionKey === null) return new Seal("legacy", this.secret);
    return new Seal("dataKey", openBox(bytes(dataEncryptionKey).slice(1), this.content.secretKey));
  }

  /** A connected socket of the app; `updates` and `ephemerals` hold what it was told. */
  async socket(more = {}) {
    const auth = { token: this.token, clientType: "user-scoped", happyClient: "ios/1.7.0", ...more };
    const options = { path: "/v1/updates", transports: ["websocket"], auth, forceNew: true, reconnectionDelay: 200 };
    const socket = io(this.url, options);
    socket.updates = new Heard();
    socket.ephemerals = new Heard();
    socket.on("update", (data) => socket.updates.add(data));
    socket.on("ephemeral", (data) => socket.ephemerals.add(data));
    socket.update = async (t, fits = () => true) => (await socket.updates.until(({ body }) => body.t === t && fits(body))).body;
    socket.ephemeral = (type, fits = () => true) => socket.ephemerals.until((data) => data.type === type && fits(data));
    socket.rpc = async (seal, method, params) => {
      const answer = await socket.emitWithAck("rpc-call", { method, params: seal.close(params) });
      return answer.ok ? seal.open(answer.result) : answer;
    };
    await new Promise((resolve) => socket.once("connect", resolve));
    return socket;
  }
}

/** One of the two programs, as its own users import it. What it reads from its surroundings is there before it is loaded. */
export const program = async (name, url, home) => {
  mkdirSync(home, { recursive: true });
  process.env.HAPPY_SERVER_URL = url;
  process.env.HAPPY_HOME_DIR = home;
  // `happy` connects again only while the machine has a network beyond itself, which a test may run without.
  const card = { address: "192.0.2.1", netmask: "255.255.255.0", family: "IPv4", mac: "00:00:00:00:00:00", internal: false, cidr: null };
  os.networkInterfaces = () => ({ test: [card] });
  return await import(`${name}/lib`);
};

/** What a program was told, beside what it makes of it itself. */
export const listen = async (socket) => {
  const updates = new Heard();
  const errors = new Heard();
  socket.on("update", (data) => updates.add(data));
  socket.on("connect_error", (error) => errors.add(error.message));
  if (!socket.connected) await new Promise((resolve) => socket.once("connect", resolve));
  return { updates, errors };
};

export const tag = () => randomUUID();
