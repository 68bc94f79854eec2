// What an app does with the official SDK, call by call. Called with the SDK's base address, the address where mails are read, and
// a picture; prints one object: what each call gave, or the error it threw. PocketBase itself and the gateway must give the same.
import { createHash } from "node:crypto";
import { EventSource } from "eventsource";
import PocketBase from "pocketbase";

const { base, mailbox, picture } = JSON.parse(process.argv[2]);
globalThis.EventSource = EventSource;
const png = Buffer.from(picture, "base64");
const found = {};
const fresh = () => new PocketBase(base).autoCancellation(false);

async function step(name, call) {
  if (name in found) throw new Error(`two calls named ${name}`);
  try {
    found[name] = { gave: (await call()) ?? null };
    return found[name].gave;
  } catch (error) {
    if (error.name !== "ClientResponseError 0" && !error.status) throw new Error(`${name}: ${error.stack}`);
    found[name] = { threw: error.status, message: error.message, response: error.response };
    return null;
  }
}
const mail = async () => (await fetch(mailbox)).json();
const linked = async (page) => (await mail()).text.match(new RegExp(`/${page}/([\\w.-]+)`))[1];
const file = (name, bytes = png, type = "image/png") => new File([bytes], name, { type });
const text = (name, words) => file(name, Buffer.from(words), "text/plain");
async function fetched(url, options) {
  const answer = await fetch(url, options);
  const body = Buffer.from(await answer.arrayBuffer());
  const headers = {};
  for (const name of ["content-type", "content-range", "content-disposition", "accept-ranges", "content-security-policy"])
    headers[name] = answer.headers.get(name);
  const json = (headers["content-type"] ?? "").includes("json");
  return { status: answer.status, headers, body: json ? JSON.parse(body) : createHash("sha256").update(body).digest("hex") };
}

const guest = fresh();
const alice = fresh();
const bob = fresh();
const notes = guest.collection("notes");
const posts = alice.collection("posts");

// --- sign in ---
await step("health", () => guest.health.check());
await step("auth methods", () => guest.collection("users").listAuthMethods());
await step("auth methods of no people", () => guest.collection("notes").listAuthMethods());
await step("sign up", () =>
  guest.collection("users").create({ email: "eve@example.com", username: "eve", password: "eve-password", passwordConfirm: "eve-password" }));
await step("sign up twice", () =>
  guest.collection("users").create({ email: "eve@example.com", username: "eve", password: "short", passwordConfirm: "other" }));
await step("wrong password", () => alice.collection("users").authWithPassword("alice@example.com", "wrong"));
await step("nobody's password", () => alice.collection("users").authWithPassword("nobody@example.com", "wrong"));
await step("no password at all", () => alice.collection("users").authWithPassword("", ""));
await step("password", () => alice.collection("users").authWithPassword("alice@example.com", "alice-password"));
await step("password by name", () => bob.collection("users").authWithPassword("bob", "bob-password"));
await step("login fields", () =>
  fresh().collection("users").authWithPassword("bob@example.com", "bob-password", { fields: "record.id,record.email" }));
await step("login expand", () => fresh().collection("users").authWithPassword("bob@example.com", "bob-password", { expand: "following" }));
await step("blocked", () => fresh().collection("users").authWithPassword("dave@example.com", "dave-password"));
await step("staff", () => fresh().collection("staff").authWithPassword("boss@example.com", "boss-password"));
await step("refresh", () => alice.collection("users").authRefresh());
await step("refresh as nobody", () => guest.collection("users").authRefresh());
await step("refresh elsewhere", () => alice.collection("staff").authRefresh());
await step("store", () => [alice.authStore.isValid, alice.authStore.isSuperuser, alice.authStore.record.username]);

// --- read ---
await step("list", () => notes.getList(1, 5, { sort: "rank" }));
await step("last page", () => notes.getList(3, 15, { sort: "-rank" }));
await step("beyond the last page", () => notes.getList(99, 15));
await step("full list", () => notes.getFullList({ sort: "rank", batch: 10 }));
await step("first item", () => notes.getFirstListItem(guest.filter("title = {:title}", { title: "it's 7" })));
await step("no first item", () => notes.getFirstListItem('title = "none"'));
await step("one", () => notes.getOne("note00000000003"));
await step("one with fields", () => notes.getOne("note00000000003", { fields: "id,title:excerpt(3,true),meta.a" }));
await step("filter", () => notes.getList(1, 30, { filter: 'rank > 3 && rank <= 9 && title ~ "it"', sort: "-title,+rank" }));
await step("skip the total", () => notes.getList(1, 4, { skipTotal: true, sort: "rank" }));
await step("by json", () => notes.getList(1, 4, { filter: "meta.a > 30", sort: "rank" }));
await step("repeated", async () => [await notes.getList(1, 5, { sort: "rank" }), await notes.getList(1, 5, { sort: "rank" })]);
await step("unknown parameters", () => notes.getList(1, 2, { sort: "rank", colour: "blue", query: { more: [1, 2] } }));
await step("head of a list", async () => {
  const answer = await fetch(`${base}/api/collections/notes/records`, { method: "HEAD" });
  return [answer.status, await answer.text()];
});
await step("expand", () => posts.getList(1, 30, { expand: "owner,related.owner", sort: "title" }));
await step("back relations", () => posts.getOne("post00000000001", { expand: "comments_via_post.author,owner" }));
await step("filter by back relation", () => posts.getList(1, 9, { filter: 'comments_via_post.text ?~ "first"', fields: "id,title" }));
await step("expand of nothing", () => posts.getOne("post00000000001", { expand: "nothing,owner.nothing" }));
await step("expand and fields", () => posts.getList(1, 9, { expand: "owner", fields: "*,expand.owner.username", sort: "title" }));
await step("people seen by one", () => alice.collection("users").getFullList({ sort: "username" }));
await step("people seen by another", () => bob.collection("users").getFullList({ sort: "username" }));
await step("people seen by nobody", () => guest.collection("users").getFullList({ sort: "username" }));
await step("oneself", () => alice.collection("users").getOne("alice0000000000", { expand: "following" }));
await step("private of another", () => bob.collection("private").getOne("private00000001"));
await step("private", () => alice.collection("private").getFullList());
await step("by id of the collection", () => guest.collection("pbc_notes").getOne("note00000000001"));
await step("by another case", () => guest.collection("NOTES").getOne("note00000000001"));
await step("rooms", () => alice.collection("rooms").getFullList());
await step("rooms of another", () => bob.collection("rooms").getFullList());
await step("rule on headers", () => guest.collection("guarded").getOne("guarded00000001", { headers: { "X-Team": "blue" } }));
await step("rule on headers refused", () => guest.collection("guarded").getOne("guarded00000001"));
await step("rule on the query", () => guest.collection("guarded").getList(1, 9, { key: "open" }));
await step("rule on the query refused", () => guest.collection("guarded").getList(1, 9));
await step("view", () => guest.collection("post_stats").getFullList({ sort: "title" }));

// --- refused ---
await step("record that is not", () => notes.getOne("note00000099999"));
await step("empty id", () => notes.getOne(""));
await step("collection that is not", () => guest.collection("nothing").getList());
await step("create in a collection that is not", () => guest.collection("nothing").create({ title: "x" }));
await step("update in a collection that is not", () => guest.collection("nothing").update("note00000000001", { title: "x" }));
await step("delete in a collection that is not", () => guest.collection("nothing").delete("note00000000001"));
await step("sign in to a collection that is not", () => guest.collection("nothing").authWithPassword("a", "b"));
await step("sign in to no people", () => guest.collection("notes").authWithPassword("a", "b"));
await step("closed collection", () => guest.collection("secret").getList());
await step("closed create", () => alice.collection("secret").create({ text: "x" }));
await step("unknown field in filter", () => notes.getList(1, 9, { filter: "colour = 1" }));
await step("broken filter", () => notes.getList(1, 9, { filter: "title = '" }));
await step("filter of superusers", () => notes.getList(1, 9, { filter: '@collection.secret.text ?= "x"' }));
await step("unknown sort", () => notes.getList(1, 9, { sort: "-colour" }));
await step("route that is not", () => guest.send("/api/nothing/here", { method: "GET" }));
await step("write to a view", () => alice.collection("post_stats").create({ title: "x" }));

// --- write ---
await step("create", () => notes.create({ id: "made00000000001", title: "made", rank: 1.5, done: true, meta: { deep: [1, { b: null }] } }));
await step("create the same", () => notes.create({ id: "made00000000001", title: "made" }));
await step("create with a bad id", () => notes.create({ id: "short", title: "made" }));
await step("create without a title", () => notes.create({ rank: 2 }));
await step("create with fields", () => notes.create({ title: "x" }, { fields: "title,done" }));
await step("unknown fields are dropped", () => notes.create({ title: "x", colour: "blue" }));
await step("update", () => notes.update("made00000000001", { title: "changed", done: false }));
await step("update nothing", () => notes.update("made00000000001", {}));
await step("update what is not", () => notes.update("made00000099999", { title: "x" }));
await step("refused update", () => bob.collection("posts").update("post00000000001", { title: "mine" }));
await step("refused create", () => bob.collection("posts").create({ owner: "alice0000000000", title: "for her" }));
const mistakes = {
  title: "t".repeat(101), slug: "NO", kind: "opera", tags: ["red", "pink"], score: 1.5, link: "nowhere", contact: "nobody", due: "soon",
  meta: "{", place: { lon: 999, lat: 0 }, related: ["nothing00000000"], owner: "",
};
for (const [field, value] of Object.entries(mistakes))
  await step(`mistake in ${field}`, () => posts.create({ owner: "alice0000000000", title: "x", [field]: value }));
await step("every mistake", () => posts.create({ ...mistakes, owner: "alice0000000000" }));
for (const [field, value] of Object.entries({ tags: "red,blue", score: "many", published: "maybe", link: 5, text: null, title: ["a"], meta: undefined }))
  await step(`odd ${field}`, () => posts.create({ owner: "alice0000000000", title: "x", [field]: value }));
await step("every field", () =>
  posts.create(
    {
      id: "made00000000002", owner: "alice0000000000", title: "é".repeat(100), slug: "a-1", kind: "poll", tags: ["red", "blue"],
      score: 7, link: "https://example.com/?a=b", contact: "a@example.com", due: "2030-01-02 03:04:05.678Z", text: "<p>hi</p>",
      meta: { a: [1, 2.5, "x"] }, place: { lon: 1.5, lat: -2 }, related: ["post00000000001", "post00000000002"], internal: "hidden",
    },
    { expand: "related.owner" },
  ));
await step("values of other types", () =>
  posts.create({ owner: "alice0000000000", title: 5, score: "12", published: "true", tags: "red", due: "", related: "", meta: "[1]", place: null }));
await step("slug that is taken", () => posts.create({ owner: "alice0000000000", title: "again", slug: "a-1" }));
await step("modifiers of lists", async () => [
  await posts.update("made00000000002", { "tags-": "red", "tags+": ["green"], "related-": ["post00000000001"], "score+": 3 }),
  await posts.update("made00000000002", { "+tags": "black", "score-": 4 }),
]);
await step("score beyond its most", () => posts.update("made00000000002", { "score+": 9999 }));
await step("counted by many", async () => {
  const counters = guest.collection("counters");
  for (let i = 0; i < 5; i++) await counters.update("counter00000001", { "n+": 2 });
  await counters.update("counter00000001", { "n-": 0.5 });
  return counters.getOne("counter00000001");
});
await step("by form", async () => {
  const form = new FormData();
  form.append("title", "by form");
  form.append("rank", "3");
  form.append("done", "true");
  form.append("meta", '{"a":1}');
  return notes.create(form);
});
await step("delete", () => notes.delete("made00000000001"));
await step("delete again", () => notes.delete("made00000000001"));
await step("refused delete", () => bob.collection("posts").delete("post00000000001"));
await step("cascade", async () => {
  await posts.delete("post00000000003");
  return alice.collection("comments").getFullList({ sort: "text" });
});
await step("own profile", () => alice.collection("users").update("alice0000000000", { name: "Alice!", emailVisibility: true }));
await step("profile of another", () => alice.collection("users").update("bob000000000000", { name: "Bob!" }));
await step("what is not one's own to set", () => alice.collection("users").update("alice0000000000", { verified: true }));

// --- files ---
const files = alice.collection("files");
const made = await step("upload", () =>
  files.create({
    id: "made00000000003", owner: "alice0000000000", title: "with files", image: file("dot.png"), protected: text("secret.txt", "secret"),
    documents: [text("aaa.txt", "aaa"), text("bbb.txt", "bbbb")],
  }));
await step("upload of another type", () => files.create({ owner: "alice0000000000", image: text("fake.png", "no picture") }));
await step("too many files", () =>
  files.create({ owner: "alice0000000000", documents: [..."abcdef"].map((name) => text(`${name.repeat(3)}.txt`, name)) }));
const more = await step("append", () => files.update(made.id, { "documents+": [text("ccc.txt", "ccccc")] }));
await step("remove", () => files.update(made.id, { "documents-": [more.documents[0]] }));
const paper = await step("papers", () =>
  posts.update("made00000000002", { papers: [text("Pa per!.txt", "1"), text("rrr.txt", "22")], cover: file("Cover Photo.PNG") }));
await step("papers appended", () => posts.update(paper.id, { "papers+": text("sss.txt", "333"), "papers-": [paper.papers[1]] }));
await step("cover removed", () => posts.update(paper.id, { cover: null }));
const url = (record, name, options) => alice.files.getURL(record, name, options);
await step("file", () => fetched(url(made, made.image)));
await step("thumb", () => fetched(url(made, made.image, { thumb: "100x100" })));
await step("thumb of another size", () => fetched(url(made, made.image, { thumb: "7x7" })));
await step("download", () => fetched(url(made, made.image, { download: true })));
await step("range", () => fetched(url(made, made.image), { headers: { range: "bytes=4-9" } }));
await step("bad range", () => fetched(url(made, made.image), { headers: { range: "bytes=99999-" } }));
await step("file that is not", () => fetched(url(made, "nothing.png")));
await step("not modified", async () => {
  const first = await fetch(url(made, made.image));
  await first.arrayBuffer();
  return fetched(url(made, made.image), { headers: { "if-modified-since": first.headers.get("last-modified") } });
});
await step("protected", () => fetched(url(made, made.protected)));
await step("file token of nobody", () => guest.files.getToken());
const token = await step("file token", () => alice.files.getToken());
await step("protected with its token", () => fetched(url(made, made.protected, { token })));
await step("protected with another's token", async () => fetched(url(made, made.protected, { token: await bob.files.getToken() })));
await step("file by form", async () => {
  const form = new FormData();
  form.append("owner", "alice0000000000");
  form.append("title", "form");
  form.append("documents", text("fff.txt", "f"));
  form.append("documents", text("ggg.txt", "g"));
  return files.create(form);
});

// --- several at once ---
await step("batch", () => {
  const batch = alice.createBatch();
  batch.collection("notes").create({ id: "batch0000000001", title: "one" });
  batch.collection("notes").create({ id: "batch0000000002", title: "two", attachment: text("nnn.txt", "n") }, { expand: "x", fields: "id,title,attachment" });
  batch.collection("notes").update("batch0000000001", { title: "changed", "rank+": 4 });
  batch.collection("notes").upsert({ id: "batch0000000002", title: "upserted" });
  batch.collection("notes").upsert({ id: "batch0000000003", title: "new" });
  batch.collection("notes").delete("batch0000000001");
  batch.collection("posts").create({ owner: "alice0000000000", title: "of a batch" }, { expand: "owner" });
  return batch.send();
});
await step("after the batch", () => notes.getFullList({ filter: 'id ~ "batch"', sort: "id" }));
await step("failing batch", () => {
  const batch = alice.createBatch();
  batch.collection("notes").create({ title: "rolled back" });
  batch.collection("notes").create({ rank: 1 });
  return batch.send();
});
await step("batch of refused", () => {
  const batch = bob.createBatch();
  batch.collection("posts").delete("post00000000001");
  return batch.send();
});
await step("nothing of failed batches", () => notes.getFullList({ filter: 'title = "rolled back"' }));
await step("empty batch", () => guest.createBatch().send());

// --- realtime ---
const told = [];
let heard = () => {};
const hear = (topic) => (event) => {
  told.push({ topic, event });
  heard();
};
const until = async (count) => {
  while (told.length < count) await new Promise((resolve) => (heard = resolve));
};
await step("subscribe", async () => {
  await alice.collection("notes").subscribe("*", hear("notes"));
  await alice.collection("notes").subscribe("note00000000001", hear("one note"), { fields: "title" });
  await alice.collection("posts").subscribe("*", hear("posts"), { expand: "owner", filter: 'title != "quiet"', headers: { "X-Team": "blue" } });
  await alice.collection("counters").subscribe("counter00000001", hear("counter"));
  return alice.realtime.isConnected;
});
await step("events", async () => {
  await notes.update("note00000000001", { title: "loud" });
  await until(2);
  const one = await notes.create({ title: "heard" });
  await until(3);
  await notes.delete(one.id);
  await until(4);
  await posts.create({ owner: "alice0000000000", title: "quiet" });
  await posts.create({ owner: "alice0000000000", title: "loud" });
  await until(5);
  await guest.collection("counters").update("counter00000001", { "n+": 1 });
  await until(6);
  return [...told].sort((a, b) => JSON.stringify([a.topic, a.event.action]).localeCompare(JSON.stringify([b.topic, b.event.action])));
});
await step("unsubscribe", async () => {
  await alice.collection("notes").unsubscribe("*");
  await alice.collection("posts").unsubscribe();
  told.length = 0;
  await notes.update("note00000000001", { title: "louder" });
  await until(1);
  await guest.collection("counters").update("counter00000001", { "n+": 1 });
  await until(2);
  return told.map((one) => [one.topic, one.event.action, one.event.record.title]);
});
await step("silence", async () => {
  await alice.realtime.unsubscribe();
  return alice.realtime.isConnected;
});

// --- by mail ---
const people = guest.collection("users");
await step("code by mail", async () => {
  const { otpId } = await people.requestOTP("bob@example.com");
  const [code] = (await mail()).text.match(/\b\d{8}\b/);
  return fresh().collection("users").authWithOTP(otpId, code);
});
await step("wrong code", async () => {
  const { otpId } = await people.requestOTP("bob@example.com");
  await mail();
  return fresh().collection("users").authWithOTP(otpId, "00000000");
});
await step("code for nobody", async () => Object.keys(await people.requestOTP("nobody@example.com")));
await step("code for no address", () => people.requestOTP("nothing"));
await step("two factors", async () => {
  const carol = fresh();
  const first = await carol.collection("users").authWithPassword("carol@example.com", "carol-password").catch((error) => error);
  found["first factor"] = { threw: first.status, keys: Object.keys(first.response) };
  const { otpId } = await carol.collection("users").requestOTP("carol@example.com");
  const [code] = (await mail()).text.match(/\b\d{8}\b/);
  return carol.collection("users").authWithOTP(otpId, code, { mfaId: first.response.mfaId });
});
await step("verification", async () => {
  const asked = await people.requestVerification("eve@example.com");
  return [asked, await people.confirmVerification(await linked("confirm-verification"))];
});
await step("verified", async () =>
  (await fresh().collection("users").authWithPassword("eve@example.com", "eve-password")).record.verified);
await step("verification of nobody", () => people.requestVerification("nobody@example.com"));
await step("verification with a bad token", () => people.confirmVerification("nothing"));
const eve = fresh();
await eve.collection("users").authWithPassword("eve@example.com", "eve-password");
await step("reset", async () => {
  const asked = await people.requestPasswordReset("eve@example.com");
  return [asked, await people.confirmPasswordReset(await linked("confirm-password-reset"), "new-password", "new-password")];
});
await step("old password", () => fresh().collection("users").authWithPassword("eve@example.com", "eve-password"));
await step("old session refreshes", () => eve.collection("users").authRefresh());
await step("new password", () => eve.collection("users").authWithPassword("eve@example.com", "new-password"));
await step("reset with a bad token", () => people.confirmPasswordReset("nothing", "a", "b"));
await step("change of address", async () => {
  const asked = await eve.collection("users").requestEmailChange("eva@example.com");
  const letter = await linked("confirm-email-change");
  const refused = await people.confirmEmailChange(letter, "wrong").catch((error) => [error.status, error.response]);
  return [asked, refused, await people.confirmEmailChange(letter, "new-password")];
});
await step("old address", () => fresh().collection("users").authWithPassword("eve@example.com", "new-password"));
await step("new address", () => eve.collection("users").authWithPassword("eva@example.com", "new-password"));
await step("change of address by nobody", () => people.requestEmailChange("x@example.com"));
await step("new password by oneself", async () => {
  await eve.collection("users").update(eve.authStore.record.id, { oldPassword: "new-password", password: "newer-password", passwordConfirm: "newer-password" });
  return fresh().collection("users").authWithPassword("eva@example.com", "newer-password");
});
await step("leave", async () => {
  const again = fresh();
  await again.collection("users").authWithPassword("eva@example.com", "newer-password");
  await again.collection("users").delete(again.authStore.record.id);
  return again.authStore.isValid;
});
await step("gone", () => fresh().collection("users").authWithPassword("eva@example.com", "newer-password"));

process.stdout.write(`${JSON.stringify(found)}\n`, () => process.exit(0));
