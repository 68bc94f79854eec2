// Opens the server in a browser as a person does: /, then what is shown there is tried out.
import { inPage } from "./page.mjs";

await inPage(async (page, { url, token }) => {
  await page.goto(url);
  const landed = page.url();
  await page.locator(".opblock").first().waitFor();
  // Of a long list the page draws only what is in view, so it is scrolled through as a person does it.
  const scrollThrough = async (found) => {
    await page.evaluate(() => window.scrollTo(0, 0));
    for (;;) {
      await page.evaluate(() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))));
      if (await found()) return;
      const moved = await page.evaluate(() => {
        const before = window.scrollY;
        window.scrollBy(0, window.innerHeight / 2);
        return window.scrollY > before;
      });
      if (!moved) return;
    }
  };
  const seen = new Map();
  await scrollThrough(async () => {
    const rows = await page.locator(".opblock-summary").evaluateAll((rows) =>
      rows.map((row) => [
        row.querySelector(".opblock-summary-method").textContent,
        row.querySelector(".opblock-summary-path").dataset.path,
      ]),
    );
    for (const row of rows) seen.set(row.join(" "), row);
  });
  const operations = [...seen.values()];

  // Unfolds one GET operation, sends it, and reads the answer that the page shows.
  const tryOut = async (path) => {
    const block = page.locator(".opblock-get").filter({ has: page.locator(`[data-path="${path}"]`) });
    await scrollThrough(async () => (await block.count()) > 0);
    await block.locator(".opblock-summary-control").click();
    await block.locator("button.execute").click();
    const answer = block.locator(".live-responses-table tbody tr.response");
    const status = await answer.locator(".response-col_status").innerText();
    return { status: parseInt(status), body: JSON.parse(await answer.locator(".highlight-code code").first().innerText()) };
  };

  const health = await tryOut("/");
  await page.evaluate(() => window.scrollTo(0, 0));
  await page.locator("button.authorize").first().click();
  await page.locator("#auth-bearer-value").fill(token);
  await page.locator(".auth-container").filter({ has: page.locator("#auth-bearer-value") }).locator("button.authorize").click();
  await page.locator(".auth-container button.btn-done").first().click();
  const me = await tryOut("/auth/me");
  return { landed, operations, health, me };
});
