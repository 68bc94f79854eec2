// Calls the API from the page of another origin, as a web app does.
import { inPage } from "./page.mjs";

await inPage(async (page, { origin, url, token, vaultId }) => {
  await page.goto(origin);
  const network = await page.context().newCDPSession(page);
  await network.send("Network.enable");
  const preflights = [];
  network.on("Network.requestWillBeSent", ({ request }) => {
    if (request.method === "OPTIONS") preflights.push(new URL(request.url).pathname);
  });
  const answers = await page.evaluate(
    async ([server, bearer, vault]) => {
      const call = async (method, path, body) => {
        const headers = { authorization: `Bearer ${bearer}`, ...(body && { "content-type": "application/json" }) };
        try {
          const answer = await fetch(server + path, { method, headers, body: body && JSON.stringify(body) });
          return { status: answer.status, body: await answer.json(), requestId: answer.headers.get("x-request-id") };
        } catch (error) {
          return { refused: error.name }; // a browser tells a page no more than this
        }
      };
      return {
        plain: await fetch(`${server}/`).then((answer) => ({ status: answer.status }), (error) => ({ refused: error.name })),
        push: await call("POST", "/sync/push", {
          vaultId: vault,
          logs: [{ encryptedData: "aGk=", nonce: "bm9uY2U=", haexTimestamp: "1/a" }],
        }),
        pull: await call("POST", "/sync/pull", { vaultId: vault }),
        vaults: await call("GET", "/sync/vaults"),
        remove: await call("DELETE", `/sync/vault/${vault}`),
        error: await call("GET", "/sync/vault-key/none"),
      };
    },
    [url, token, vaultId],
  );
  return { answers, preflights };
});
