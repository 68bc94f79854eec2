// Client of Hapta's gateway socket for browsers (and for any JavaScript that has WebSocket): one ES module, no dependencies.
//
//   import { HaptaGateway } from "https://api.example/gateway/v1/client.js";
//   const gateway = new HaptaGateway("https://api.example");
//   await gateway.authWithPassword("users", "somebody@example.org", "her password");
//   const notes = gateway.collection("notes");
//   await notes.subscribe("*", (event) => console.log(event.action, event.record));
//   await notes.create({ title: "Hello" });
//
// README.md beside this file says what each method takes, docs/gateway-socket.md what goes over the wire.

const ID_BYTES = 16;
const HEAD_BYTES = ID_BYTES + 4;
const STALE = 4401;
const CONNECT_MS = 15_000;
const ANSWER_MS = 60_000;
const QUIET_MS = 75_000;
const RETRY_MS = [200, 500, 1_000, 2_000, 5_000, 10_000];

/** An answer that something did not go well. */
export class GatewayError extends Error {
  /**
   * @param {{code: number, status: number, message: string, data?: object, retryAfter?: number}} told
   */
  constructor(told) {
    super(told.message);
    this.name = "GatewayError";
    /** Hapta's number, such as 103 for a request that cannot be followed. */
    this.code = told.code;
    /** The HTTP status that the same request would have had; 0 when nobody answered. */
    this.status = told.status;
    /** By field what is wrong with it, as PocketBase says it. */
    this.data = told.data ?? {};
    /** Seconds after which it makes sense to try again. */
    this.retryAfter = told.retryAfter;
  }
}

const away = (message) => new GatewayError({ code: 900, status: 0, message });

/**
 * One connection to the gateway. It opens when it is needed, and opens again by itself when it was lost: signed in with the newest
 * token, and with all subscriptions.
 */
export class HaptaGateway extends EventTarget {
  #address;
  #token = "";
  #record = null;
  #socket = null;
  #opening = null;
  #closed = false;
  #attempts = 0;
  #timer = null;
  #nextId = 1;
  #heardAt = 0;
  #waiting = new Map(); // id of a message -> {resolve, reject, types, timer}
  #subscriptions = new Map(); // key -> {payload, handler}
  #uploads = new Map(); // id of an upload -> {acknowledged, wake}
  #downloads = new Map(); // id of a file -> {push, fail, end}

  /**
   * @param {string} [base] address of the server; that of the page when left out
   * @param {{token?: string}} [options] token: of an earlier session
   */
  constructor(base = globalThis.location?.origin, { token = "" } = {}) {
    super();
    const address = new URL("/gateway/v1/socket", base);
    address.protocol = address.protocol === "https:" || address.protocol === "wss:" ? "wss:" : "ws:";
    this.#address = address.href;
    this.#token = token;
  }

  /** The session's token, to be kept by the app; it changes with each sign-in and each `roll`. Event: `token`. */
  get token() {
    return this.#token;
  }

  /** Who is signed in, as the last sign-in or `refresh` told it; null when nobody is. */
  get record() {
    return this.#record;
  }

  /** Whether the socket is open. */
  get connected() {
    return this.#socket?.readyState === 1;
  }

  // --- signing in ---

  /** Signs in with a token of an earlier session. */
  async auth(token = this.#token) {
    await this.#connect(false);
    const told = await this.#ask("auth", {}, { token });
    this.#signedIn(token, null);
    await this.#resubscribe();
    return told;
  }

  /**
   * Signs in with a password.
   * A `GatewayError` with `data.mfaId` wants a second factor.
   */
  async authWithPassword(collection, identity, password, more = {}) {
    return this.#begin("authWithPassword", { collection, identity, password, ...more });
  }

  /**
   * Signs in by an outside provider. Call it from a click, or the browser blocks the window.
   *
   * @param {{provider: string, scopes?: string[], createData?: object, open?: (url: string) => void}} options open: shows the
   *   provider's page; a window of its own when left out
   */
  async authWithOAuth2(collection, { provider, scopes, createData, open }) {
    // Opened at once, while the click still counts; its address comes later.
    const popup = open === undefined ? window.open("about:blank", "_blank", "popup,width=1024,height=768") : null;
    const show = open ?? ((url) => (popup ? (popup.location.href = url) : window.open(url)));
    try {
      return await this.#begin("oauth.start", { collection, provider, scopes, createData }, {
        types: ["oauth.done", "oauth.error"],
        timeout: 310_000,
        between: (told) => show(told.url),
      });
    } finally {
      popup?.close();
    }
  }

  /** The record of whoever is signed in, read anew. */
  async refresh() {
    this.#record = await this.#call("authUpdate", {});
    return this.#record;
  }

  /** The session's next token; the one before it soon counts no more. */
  async roll() {
    const told = await this.#call("auth_roll_token", {}, { token: this.#token });
    this.#signedIn(told.token, told.record);
    await this.#ask("auth", {}, { token: told.token }); // from its first use on, the token before it ends
    return told;
  }

  /** Changes the password. The session ends with it: sign in again. */
  async changePassword(oldPassword, newPassword) {
    return this.#call("changePassword", { oldPassword, newPassword });
  }

  /** Ends this session, or all of this person. */
  async logout({ all = false } = {}) {
    const told = await this.#call("logout", { all });
    this.#drop();
    this.#signedOut();
    return told;
  }

  // --- data ---

  /** Records of a collection. */
  collection(name) {
    return new Collection(this, name);
  }

  /** How long an answer takes, in milliseconds. */
  async ping() {
    const before = performance.now();
    await this.#call("ping", { time: Date.now() });
    return performance.now() - before;
  }

  /** How one stands with a limit: `{ratelimited, limit, used, duration, retryAfter}`. */
  async limit(method, collection) {
    return this.#call("isRatelimited", { method, collection });
  }

  /** Sends any message of the protocol; its payload when it went well. */
  async send(type, payload = {}) {
    return this.#call(type, payload);
  }

  /**
   * Listens to a topic until the returned function is called.
   *
   * @param {object} payload of the message `subscribe`
   * @param {(event: {action: string, record: object}, topic: string) => void} handler
   * @returns {Promise<() => Promise<void>>}
   */
  async subscribe(payload, handler) {
    const key = `s${this.#nextId++}`;
    const wanted = { ...payload, key };
    this.#subscriptions.set(key, { payload: wanted, handler });
    try {
      await this.#call("subscribe", wanted);
    } catch (error) {
      this.#subscriptions.delete(key);
      throw error;
    }
    return async () => {
      if (this.#subscriptions.delete(key) && this.connected) await this.#ask("unsubscribe", { key });
    };
  }

  /**
   * Sends a file into a field of a record, or of a new one.
   *
   * @param {object} payload of the message `upload.begin`, without name, type and size
   * @param {Blob} file
   * @param {{name?: string, sha256?: string, signal?: AbortSignal, onProgress?: (sent: number, size: number) => void}} [options]
   *   sha256: in hex, checked by the server
   * @returns {Promise<object>} the record
   */
  async upload(payload, file, { name = file.name ?? "file", sha256, signal, onProgress } = {}) {
    signal?.throwIfAborted();
    await this.#connect();
    const begin = { ...payload, name, size: file.size, type: file.type, sha256 };
    let upload = "";
    let failed = false;
    const abort = () => {
      if (upload && this.connected) this.#say({ type: "upload.abort", payload: { upload } });
    };
    const options = { types: ["upload.done", "upload.error"], timeout: 0 };
    const record = this.#ask("upload.begin", begin, {}, {
      ...options,
      between: (ready) => {
        upload = ready.upload;
        this.#uploads.set(upload, { acknowledged: -1, wake: () => {} });
        if (signal?.aborted) abort();
        this.#sendChunks(ready, file, () => failed, onProgress).catch(abort);
      },
    });
    signal?.addEventListener("abort", abort, { once: true });
    try {
      return await record;
    } catch (error) {
      failed = true;
      signal?.throwIfAborted();
      throw error;
    } finally {
      signal?.removeEventListener("abort", abort);
      this.#uploads.get(upload)?.wake();
      this.#uploads.delete(upload);
    }
  }

  async #sendChunks({ upload, chunk, window }, file, failed, onProgress) {
    const state = this.#uploads.get(upload);
    const id = fromHex(upload);
    const count = Math.ceil(file.size / chunk);
    for (let number = 0; number < count; number += 1) {
      while (number - state.acknowledged > window && !failed()) {
        await new Promise((resolve) => (state.wake = resolve));
      }
      if (failed()) return;
      const part = file.slice(number * chunk, (number + 1) * chunk);
      const frame = new Uint8Array(HEAD_BYTES + part.size);
      frame.set(id);
      new DataView(frame.buffer).setUint32(ID_BYTES, number);
      frame.set(new Uint8Array(await part.arrayBuffer()), HEAD_BYTES);
      if (failed()) return;
      this.#socket.send(frame);
      onProgress?.(Math.min(file.size, (number + 1) * chunk), file.size);
    }
    if (!failed()) this.#say({ type: "upload.end", payload: { upload } });
  }

  /**
   * Opens a file.
   *
   * @param {object} payload of the message `file.get`
   * @returns {Promise<GatewayFile>} its bytes come no faster than they are read
   */
  async download(payload) {
    await this.#connect();
    const frames = [];
    let wake = () => {};
    let over = false;
    let failure = null;
    const meta = await new Promise((resolve, reject) => {
      this.#ask("file.get", payload, {}, {
        types: ["file.end", "file.error"],
        timeout: 0,
        between: (told) => {
          this.#downloads.set(told.file, (number, bytes) => {
            frames.push([number, bytes]);
            wake();
          });
          resolve(told);
        },
      })
        .catch((error) => {
          failure = error;
          reject(error);
        })
        .finally(() => {
          over = true;
          wake();
        });
    });
    const say = (type, more) => this.connected && this.#say({ type, payload: { file: meta.file, ...more } });
    const stream = new ReadableStream(
      {
        pull: async (controller) => {
          while (frames.length === 0 && !over) await new Promise((resolve) => (wake = resolve));
          if (frames.length > 0) {
            const [number, bytes] = frames.shift();
            controller.enqueue(bytes);
            say("file.ack", { seq: number });
            return;
          }
          this.#downloads.delete(meta.file);
          if (failure) controller.error(failure);
          else controller.close();
        },
        cancel: () => {
          this.#downloads.delete(meta.file);
          if (!over) say("file.abort");
        },
      },
      { highWaterMark: 0 },
    );
    return new GatewayFile(meta, stream);
  }

  /** Closes the socket for good. */
  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#drop();
  }

  // --- inside ---

  async #begin(type, payload, options) {
    await this.#connect(false);
    const told = await this.#ask(type, payload, {}, options);
    this.#signedIn(told.token, told.record);
    await this.#resubscribe();
    return told;
  }

  /** Asks over a socket that is signed in. */
  async #call(type, payload, envelope = {}) {
    await this.#connect();
    return this.#ask(type, payload, envelope);
  }

  #ask(type, payload, envelope = {}, { types = null, timeout = ANSWER_MS, between = null } = {}) {
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      const timer =
        timeout && setTimeout(() => this.#waiting.delete(id) && reject(away("The server did not answer.")), timeout);
      this.#waiting.set(id, { resolve, reject, types, between, timer });
      try {
        this.#say({ id, type, payload, ...envelope });
      } catch (error) {
        this.#waiting.delete(id);
        clearTimeout(timer);
        reject(error);
      }
    });
  }

  #say(message) {
    if (!this.connected) throw away("There is no connection.");
    this.#socket.send(JSON.stringify(message));
  }

  /** Opens the socket unless it is open, and signs in where there is a token. */
  async #connect(signIn = true) {
    this.#closed = false;
    if (!this.connected) {
      this.#opening ??= this.#open(signIn).finally(() => (this.#opening = null));
      await this.#opening;
    }
  }

  async #open(signIn) {
    clearTimeout(this.#timer);
    const socket = new WebSocket(this.#address);
    socket.binaryType = "arraybuffer";
    await new Promise((resolve, reject) => {
      const late = setTimeout(() => socket.close(), CONNECT_MS);
      socket.onopen = () => {
        clearTimeout(late);
        resolve();
      };
      socket.onclose = () => {
        clearTimeout(late);
        reject(away("The server cannot be reached."));
      };
    });
    if (this.#closed) {
      socket.close(1000);
      throw away("The connection was closed.");
    }
    this.#socket = socket;
    this.#heardAt = Date.now();
    const watch = setInterval(() => Date.now() - this.#heardAt > QUIET_MS && socket.close(), QUIET_MS / 5);
    socket.onmessage = ({ data }) => this.#heard(data);
    socket.onclose = (event) => {
      clearInterval(watch);
      if (this.#socket === socket) this.#gone(event.code);
    };
    if (signIn && this.#token) {
      await this.#ask("auth", {}, { token: this.#token });
      await this.#resubscribe();
      if (this.#attempts > 0) this.#tell("resync"); // what happened meanwhile, nobody told
    }
    this.#attempts = 0;
    this.#tell("open");
  }

  async #resubscribe() {
    await Promise.all([...this.#subscriptions.values()].map(({ payload }) => this.#ask("subscribe", payload)));
  }

  #gone(code) {
    this.#lost(away("The connection was lost."));
    if (code === STALE) {
      this.#signedOut();
      return;
    }
    if (!this.#closed && this.#token) this.#later();
  }

  #lost(error) {
    this.#socket = null;
    for (const { reject, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(error);
    }
    this.#waiting.clear();
    this.#downloads.clear();
    this.#tell("close");
  }

  #drop() {
    const socket = this.#socket;
    if (socket) {
      this.#lost(away("The connection was closed."));
      socket.close(1000);
    }
  }

  #later() {
    const pause = RETRY_MS[Math.min(this.#attempts, RETRY_MS.length - 1)];
    this.#attempts += 1;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(
      () => this.#connect().catch(() => !this.#closed && this.#token && !this.connected && this.#later()),
      pause * (0.5 + Math.random()),
    );
  }

  #heard(data) {
    this.#heardAt = Date.now();
    if (typeof data !== "string") {
      const view = new DataView(data);
      this.#downloads.get(toHex(new Uint8Array(data, 0, ID_BYTES)))?.(
        view.getUint32(ID_BYTES),
        new Uint8Array(data, HEAD_BYTES),
      );
      return;
    }
    const told = JSON.parse(data);
    if ("ok" in told) this.#answered(told);
    else if (told.type === "subscription") {
      this.#subscriptions.get(told.key)?.handler(told.payload, told.topic);
    } else if (told.type === "upload.ack") {
      const state = this.#uploads.get(told.upload);
      if (state) {
        state.acknowledged = told.seq;
        state.wake();
      }
    } else if (told.type === "resync") this.#tell("resync");
    else if (told.type === "ping") this.#say({ type: "pong" });
  }

  #answered(told) {
    const waiting = this.#waiting.get(told.id);
    if (!waiting) return;
    if (told.ok && waiting.types && !waiting.types.includes(told.type)) {
      waiting.between?.(told.payload);
      return;
    }
    this.#waiting.delete(told.id);
    clearTimeout(waiting.timer);
    if (told.ok) waiting.resolve(told.payload);
    else waiting.reject(new GatewayError(told.error));
  }

  #signedIn(token, record) {
    this.#token = token;
    if (record) this.#record = record;
    this.#tell("token");
  }

  #signedOut() {
    if (!this.#token) return;
    this.#token = "";
    this.#record = null;
    this.#subscriptions.clear();
    clearTimeout(this.#timer);
    this.#tell("token");
    this.#tell("signedout");
  }

  #tell(name) {
    this.dispatchEvent(new Event(name));
  }
}

/** Records of one collection. */
class Collection {
  #gateway;
  #name;

  constructor(gateway, name) {
    this.#gateway = gateway;
    this.#name = name;
  }

  #send(type, payload) {
    return this.#gateway.send(type, { ...payload, collection: this.#name });
  }

  /** A page: `{page, perPage, totalItems, totalPages, items}`. Options: filter, sort, expand, fields, page, perPage, skipTotal. */
  list(options = {}) {
    return this.#send("list", options);
  }

  /** One record. Options: expand, fields. */
  get(recordId, options = {}) {
    return this.#send("read", { ...options, recordId });
  }

  create(data, options = {}) {
    return this.#send("create", { ...options, data });
  }

  update(recordId, data, options = {}) {
    return this.#send("update", { ...options, recordId, data });
  }

  async delete(recordId) {
    await this.#send("delete", { recordId });
  }

  /**
   * Listens to a record, or with `*` to all; the returned function ends that.
   * Options: event (`create`, `update`, `delete`), filter, expand, fields.
   */
  subscribe(recordId, handler, options = {}) {
    return this.#gateway.subscribe({ ...options, collection: this.#name, recordId }, handler);
  }

  /** Sends a file into a field of a record; of a new one, with `data`, when there is no record. See `HaptaGateway.upload`. */
  upload(recordId, field, file, { data, ...options } = {}) {
    const record = recordId ? { record: recordId } : {};
    return this.#gateway.upload({ ...record, collection: this.#name, field, data }, file, options);
  }

  /** Opens a file of a record. Options: thumb, range (`bytes=0-99`, or `[first, last]`). */
  download(recordId, filename, options = {}) {
    return this.#gateway.download({ ...options, collection: this.#name, record: recordId, filename });
  }
}

/** A file that is on its way. */
class GatewayFile {
  constructor({ name, type, size, range }, stream) {
    this.name = name;
    this.type = type;
    /** In bytes; null when the server does not know it. */
    this.size = size;
    /** Of a part: `bytes 0-99/1234`. */
    this.range = range;
    /** Read it, or cancel it. */
    this.stream = stream;
  }

  /** All of it. */
  async blob() {
    const blob = await new Response(this.stream).blob();
    return blob.slice(0, blob.size, this.type);
  }
}

const toHex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const fromHex = (text) => Uint8Array.from(text.match(/../g), (pair) => Number.parseInt(pair, 16));
