// An app's page on another origin works with the gateway through the client module that the server itself hands out.
import { inPage } from "./page.mjs";

await inPage(async (page, { origin, url, alice, size }) => {
  await page.goto(origin);
  return page.evaluate(
    async ([base, person, bytes]) => {
      const { HaptaGateway, GatewayError } = await import(`${base}/gateway/v1/client.js`);
      const hex = (buffer) => Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");
      const hash = async (blob) => hex(await crypto.subtle.digest("SHA-256", await blob.arrayBuffer()));
      const gateway = new HaptaGateway(base);
      const heard = [];
      for (const name of ["open", "close", "token", "signedout", "resync"]) {
        gateway.addEventListener(name, () => heard.push(name));
      }
      const told = {};
      told.nobody = await gateway.collection("posts").list().catch((error) => [error instanceof GatewayError, error.code]);
      told.wrong = await gateway.authWithPassword("users", person.email, "wrong").catch((error) => [error.code, error.status]);
      const signedIn = await gateway.authWithPassword("users", person.email, person.password);
      told.record = signedIn.record.id;

      const posts = gateway.collection("posts");
      const events = [];
      let seen = () => {};
      const until = (count) =>
        new Promise((resolve) => {
          seen = () => events.length >= count && resolve();
          seen();
        });
      const stop = await posts.subscribe("*", (event) => {
        events.push(`${event.action} ${event.record.title}`);
        seen();
      });
      const made = await posts.create({ owner: person.id, title: "one" });
      await until(1);
      told.changed = (await posts.update(made.id, { title: "two" }, { fields: "title" })).title;
      await until(2);
      told.listed = (await posts.list({ filter: `owner='${person.id}'`, perPage: 1 })).items.map((post) => post.title);
      told.read = (await posts.get(made.id, { expand: ["owner"] })).expand.owner.id;
      told.invalid = await posts.create({ owner: person.id, title: "" }).catch((error) => error.data.title.code);
      await posts.delete(made.id);
      await until(3);
      told.events = events;
      await stop();

      const content = new Uint8Array(bytes);
      for (let at = 0; at < bytes; at += 65536) crypto.getRandomValues(content.subarray(at, at + 65536));
      const file = new File([content], "large.bin");
      const files = gateway.collection("files");
      let sent = 0;
      const record = await files.upload(null, "large", file, {
        data: { owner: person.id },
        sha256: await hash(file),
        onProgress: (done) => (sent = done),
      });
      told.sent = sent;
      const down = await files.download(record.id, record.large);
      told.size = down.size;
      told.same = (await hash(await down.blob())) === (await hash(file));
      const part = await files.download(record.id, record.large, { range: [5, 9] });
      told.part = hex(await (await part.blob()).arrayBuffer()) === hex(content.slice(5, 10).buffer);
      const given = await files.download(record.id, record.large);
      await given.stream.cancel();
      const controller = new AbortController();
      const aborted = files.upload(record.id, "large", file, {
        signal: controller.signal,
        onProgress: () => controller.abort(),
      });
      told.aborted = await aborted.catch((error) => error.name);
      told.refused = await files
        .upload(record.id, "image", new File(["%PDF-1.7"], "a.png", { type: "image/png" }))
        .catch((error) => error.code);

      const before = gateway.token;
      await gateway.roll();
      told.rolled = gateway.token !== before && (await gateway.refresh()).id === person.id;

      // Another one, with the same token, loses its connection and finds back by itself.
      const Real = window.WebSocket;
      let wire;
      window.WebSocket = class extends Real {
        constructor(address) {
          super(address);
          wire = this;
        }
      };
      const second = new HaptaGateway(base, { token: gateway.token });
      const resynced = new Promise((resolve) => second.addEventListener("resync", resolve));
      const changed = new Promise((resolve) => second.collection("posts").subscribe("*", resolve, { event: "create" }));
      await second.ping();
      window.WebSocket = Real;
      await second.collection("posts").list();
      wire.close();
      await resynced;
      await posts.create({ owner: person.id, title: "again" });
      told.again = (await changed).record.title;
      second.close();

      await gateway.logout();
      told.over = await fetch(`${base}/gateway/v1/sessions`, { headers: { authorization: before } }).then((r) => r.status);
      told.token = gateway.token;
      told.heard = heard;
      return told;
    },
    [url, alice, size],
  );
});
