// The official client of tus in a page of another origin: whole uploads, ones that are cut off and taken up again, and refused ones.
// With `url`, the upload of that address is taken up again; with `leave`, the first one is left behind half done.
import { fileURLToPath } from "node:url";
import { inPage } from "./page.mjs";

const client = fileURLToPath(new URL("node_modules/tus-js-client/dist/tus.min.js", import.meta.url));

await inPage(async (page, given) => {
  await page.goto(given.origin);
  await page.addScriptTag({ path: client });
  const network = await page.context().newCDPSession(page);
  const speed = (bytes) =>
    network.send("Network.emulateNetworkConditions", {
      offline: false,
      latency: 0,
      downloadThroughput: -1,
      uploadThroughput: bytes,
    });
  await page.exposeFunction("setSpeed", speed);
  await page.exposeFunction("setOffline", (offline) => page.context().setOffline(offline));
  return page.evaluate(async ({ server, token, size, leave, url }) => {
    const content = new Uint8Array(size).map((_, n) => 32 + ((n * 7) % 90));
    const blob = new Blob([content], { type: "text/plain" });
    const sha256 = async (bytes) =>
      [...new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))].map((b) => b.toString(16).padStart(2, "0")).join("");
    const headers = { authorization: `Bearer ${token}` };
    const stored = async (id) => (await fetch(`${server}/v1/uploads/${id}/download`, { headers })).arrayBuffer();

    // One upload; `meanwhile` may act on it as it goes. Resolves with what came of it.
    const upload = (source, options = {}, meanwhile = () => {}) =>
      new Promise((resolve) => {
        const said = { filename: "notes.txt", filetype: "text/plain", category: "documents" };
        const found = { statuses: [], offsets: [] };
        const one = new tus.Upload(source, {
          endpoint: `${server}/v1/uploads/tus`,
          headers,
          metadata: said,
          retryDelays: [0, 200, 500, 1000, 2000, 3000],
          storeFingerprintForResuming: true,
          onAfterResponse: (request, response) => {
            found.statuses.push(`${request.getMethod()} ${response.getStatus()}`);
            const file = response.getHeader("Hapta-File-Id");
            if (file) found.file = file;
            if (request.getMethod() === "HEAD") found.offsets.push(Number(response.getHeader("Upload-Offset")));
          },
          onProgress: (sent, total) => meanwhile(one, sent, total, resolve, found),
          onSuccess: () => resolve({ ...found, url: one.url }),
          onError: (error) => resolve({ ...found, error: error.originalResponse?.getStatus() ?? String(error) }),
          ...options,
        });
        found.one = one;
        if (options.previous) one.resumeFromPreviousUpload(options.previous);
        one.start();
      });
    const plain = ({ one, ...found }) => found;
    const cutAt = (share) => {
      let cut = false;
      return async (one, sent, total, resolve, found) => {
        if (cut || sent < total * share || sent >= total) return;
        cut = true;
        await one.abort();
        resolve({ ...found, url: one.url, cut: true });
      };
    };

    if (url) {
      const resumed = plain(await upload(blob, { uploadUrl: url }));
      const bytes = await stored(resumed.file);
      return { resumed, same: (await sha256(bytes)) === (await sha256(content)) };
    }
    await setSpeed(2_000_000);
    if (leave) return { left: plain(await upload(blob, { chunkSize: size / 4 }, cutAt(0.6))) };

    const whole = plain(await upload(blob, { chunkSize: size / 3 }));
    const wholeSame = (await sha256(await stored(whole.file))) === (await sha256(content));

    // Cut off by the page, and taken up again from what the browser remembers.
    const cut = plain(await upload(blob, { removeFingerprintOnSuccess: true }, cutAt(0.4)));
    const previous = (await new tus.Upload(blob, { endpoint: `${server}/v1/uploads/tus` }).findPreviousUploads()).find(
      (one) => one.uploadUrl === cut.url,
    );
    const resumed = plain(await upload(blob, { previous }));
    const resumedSame = (await sha256(await stored(resumed.file))) === (await sha256(content));

    // The network goes, and comes back: the client tries again by itself.
    let gone = false;
    const retried = plain(
      await upload(blob, { chunkSize: size / 5 }, async (one, sent, total) => {
        if (gone || sent < total * 0.3) return;
        gone = true;
        await setOffline(true);
        await setOffline(false);
      }),
    );
    const retriedSame = (await sha256(await stored(retried.file))) === (await sha256(content));

    await setSpeed(-1);
    const reader = blob.stream().getReader();
    const deferred = plain(await upload(reader, { uploadLengthDeferred: true, chunkSize: size / 2 }));
    const deferredSame = (await sha256(await stored(deferred.file))) === (await sha256(content));

    const refused = plain(await upload(blob, { metadata: { filename: "x.png", filetype: "image/png" } }));
    const ended = await upload(blob, { chunkSize: size / 4 }, (one, sent, total, resolve, found) => {
      if (sent >= total / 2) one.abort(true).then(() => resolve({ ...found, url: one.url }), (error) => resolve({ error: String(error) }));
    });
    const gone404 = await fetch(ended.url, { method: "HEAD", headers: { ...headers, "tus-resumable": "1.0.0" } });
    return {
      whole, wholeSame, cut, resumed, resumedSame, retried, retriedSame, deferred, deferredSame,
      refused: refused.error, ended: gone404.status,
    };
  }, given);
});
