// An app's page signs somebody in by a provider, in the window that the client module opens.
import { inPage } from "./page.mjs";

await inPage(async (page, { origin, url }) => {
  await page.goto(origin);
  await page.evaluate(async (base) => {
    const { HaptaGateway } = await import(`${base}/gateway/v1/client.js`);
    window.gateway = new HaptaGateway(base);
    const button = document.createElement("button");
    button.textContent = "Sign in";
    button.onclick = () => {
      window.signedIn = window.gateway.authWithOAuth2("users", { provider: "oidc" });
    };
    document.body.append(button);
  }, url);
  const opened = page.waitForEvent("popup");
  await page.click("button");
  const popup = await opened;
  const told = await page.evaluate(async () => {
    const { record, meta } = await window.signedIn;
    return { email: record.email, same: (await window.gateway.refresh()).id === record.id, meta };
  });
  if (!popup.isClosed()) await popup.waitForEvent("close");
  await page.evaluate(() => window.gateway.close());
  return { ...told, windows: page.context().pages().length };
});
