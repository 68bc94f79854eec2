// Listens to a vault from the page of another origin while another client pushes to it.
import { inPage } from "./page.mjs";

await inPage(async (page, { origin, url, token, vaultId }) => {
  await page.goto(origin);
  // Resolves with what came: frames up to `last`, or the code that the server closed with.
  const open = (bearer, last) =>
    page.evaluate(
      ([address, sent, vault, wanted]) => {
        const frames = (window.frames_ = []);
        window.until = (type) =>
          new Promise((resolve) => {
            const look = () => frames.find((frame) => frame.type === type) && resolve(frames);
            window.look = look;
            look();
          });
        const socket = (window.socket = new WebSocket(`${address}/sync/ws`));
        socket.onopen = () => {
          socket.send(JSON.stringify({ type: "auth", token: sent }));
          socket.send(JSON.stringify({ type: "subscribe", vaultId: vault }));
        };
        socket.onmessage = (message) => {
          frames.push(JSON.parse(message.data));
          window.look();
        };
        socket.onclose = (event) => {
          frames.push({ type: "closed", code: event.code });
          window.look();
        };
        return window.until(wanted);
      },
      [url.replace("http", "ws"), bearer, vaultId, last],
    );

  const refused = await open("no.such.token", "closed");
  const subscribed = await open(token, "subscribed");
  const pushed = await fetch(`${url}/sync/push`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: JSON.stringify({
      vaultId,
      deviceId: "another-device",
      logs: [{ encryptedData: "aGk=", nonce: "bm9uY2U=", haexTimestamp: "1/a" }],
    }),
  });
  const frames = await page.evaluate(() => window.until("logs"));
  return { refused, subscribed, pushed: (await pushed.json()).head, hint: frames.at(-1) };
});
