// What a script could do that somebody smuggled into a page of the docs.
import { inPage } from "./page.mjs";

await inPage(async (page, { url, other }) => {
  // The policy comes with the page. What the page would describe for many seconds is of no interest here.
  const document = { openapi: "3.1.0", info: { title: "Nothing", version: "1" }, paths: {} };
  await page.route("**/openapi.json", (route) => route.fulfill({ json: document }));
  await page.goto(`${url}/docs`);
  const ran = await page.evaluate(() => {
    const script = document.createElement("script");
    script.textContent = "window.smuggled = true";
    document.head.append(script);
    return window.smuggled === true;
  });
  const sent = await page.evaluate(async (address) => {
    const noticed = new Promise((resolve) =>
      addEventListener("securitypolicyviolation", (event) => event.effectiveDirective === "connect-src" && resolve()),
    );
    const arrived = await fetch(address).then(() => true, () => false);
    if (!arrived) await noticed; // the event may come after the refusal
    return arrived;
  }, other);
  return { ran, sent };
});
