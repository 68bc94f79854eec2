// The core of a relay on Socket.IO: messages of a session are stored in SQLite (synchronous = FULL) and told to the other sockets.
// Argument: JSON with `port`, `accounts` (how many, each with one session) and `file` of the database. Once it listens it prints
// one line of JSON: a token and a session for each account.
//
// Messages that come in one turn of the loop share a transaction. It keeps no log of updates, which ours does.
import { createHmac, randomBytes, randomUUID, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";
import { DatabaseSync } from "node:sqlite";
import { Server } from "socket.io";

const { port, accounts, file } = JSON.parse(process.argv[2]);

const db = new DatabaseSync(file);
db.exec(`
  PRAGMA journal_mode = WAL;
  PRAGMA synchronous = FULL;
  CREATE TABLE accounts (id TEXT PRIMARY KEY, seq INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
  CREATE TABLE sessions (
    account TEXT NOT NULL, id TEXT NOT NULL, seq INTEGER NOT NULL DEFAULT 0, updated_at INTEGER NOT NULL,
    PRIMARY KEY (account, id)
  ) WITHOUT ROWID;
  CREATE TABLE messages (
    account TEXT NOT NULL, session TEXT NOT NULL, seq INTEGER NOT NULL, id TEXT NOT NULL, local_id TEXT,
    content TEXT NOT NULL, created_at INTEGER NOT NULL, PRIMARY KEY (account, session, seq)
  ) WITHOUT ROWID;
  CREATE UNIQUE INDEX messages_by_name ON messages (account, session, local_id);
`);
const findByName = db.prepare("SELECT id, seq FROM messages WHERE account = ? AND session = ? AND local_id = ?");
const nextOfSession = db.prepare("UPDATE sessions SET seq = seq + 1, updated_at = ? WHERE account = ? AND id = ? RETURNING seq");
const nextOfAccount = db.prepare("UPDATE accounts SET seq = seq + 1 WHERE id = ? RETURNING seq");
const insert = db.prepare("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?)");

const secret = randomBytes(32);
const signature = (text) => createHmac("sha256", secret).update(text).digest();

function accountOf(token) {
  const [account, given] = String(token).split(".");
  const wanted = signature(account);
  const bytes = Buffer.from(given ?? "", "base64url");
  return bytes.length === wanted.length && timingSafeEqual(bytes, wanted) ? account : null;
}

const server = createServer();
const io = new Server(server, { path: "/v1/updates", transports: ["websocket"], pingInterval: 15000, pingTimeout: 45000 });

io.use((socket, next) => {
  const { token, clientType, sessionId } = socket.handshake.auth;
  socket.data.account = accountOf(token);
  if (!socket.data.account) return next(new Error("Invalid authentication token"));
  if (clientType === "session-scoped" && !sessionId) return next(new Error("Session ID required"));
  socket.join(clientType === "session-scoped" ? `session:${socket.data.account}:${sessionId}` : `user:${socket.data.account}`);
  next();
});

let waiting = [];

function store({ account, sid, message, localId, now }) {
  if (localId) {
    const known = findByName.get(account, sid, localId);
    if (known) return { ...known, isNew: false };
  }
  const session = nextOfSession.get(now, account, sid);
  if (!session) return null;
  const update = nextOfAccount.get(account).seq;
  const id = randomUUID();
  insert.run(account, sid, session.seq, id, localId ?? null, JSON.stringify({ t: "encrypted", c: message }), now);
  return { id, seq: session.seq, update, isNew: true };
}

function commit() {
  const batch = waiting;
  waiting = [];
  db.exec("BEGIN IMMEDIATE");
  const stored = batch.map(store);
  db.exec("COMMIT");
  batch.forEach(({ socket, account, sid, message, localId, now, acknowledge }, at) => {
    const done = stored[at];
    if (!done) return acknowledge?.({ result: "error", message: "Session not found" });
    acknowledge?.({ result: "success", id: done.id, seq: done.seq, localId });
    if (!done.isNew) return;
    const content = { t: "encrypted", c: message };
    const told = { id: done.id, seq: done.seq, content, localId, createdAt: now, updatedAt: now };
    const body = { t: "new-message", sid, message: told };
    const update = { id: randomUUID(), seq: done.update, body, createdAt: now };
    socket.to(`session:${account}:${sid}`).to(`user:${account}`).emit("update", update);
  });
}

io.on("connection", (socket) => {
  socket.on("message", (data, acknowledge) => {
    const { sid, message, localId } = data ?? {};
    if (typeof sid !== "string" || typeof message !== "string" || (localId != null && typeof localId !== "string")) {
      return acknowledge?.({ result: "error", message: "Invalid parameters" });
    }
    if (waiting.push({ socket, account: socket.data.account, sid, message, localId, now: Date.now(), acknowledge }) === 1) {
      setImmediate(commit);
    }
  });
});

const seats = Array.from({ length: accounts }, () => {
  const [account, session] = [randomUUID(), randomUUID()];
  db.prepare("INSERT INTO accounts (id) VALUES (?)").run(account);
  db.prepare("INSERT INTO sessions (account, id, updated_at) VALUES (?, ?, ?)").run(account, session, Date.now());
  return { token: `${account}.${signature(account).toString("base64url")}`, session };
});

server.listen(port, "127.0.0.1", () => console.log(JSON.stringify({ seats })));
