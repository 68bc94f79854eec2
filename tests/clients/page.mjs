// One page of the shared browser, with an ear on everything that goes wrong in it.
import { chromium } from "playwright-core";

const given = JSON.parse(process.argv[2]);

// Runs `visit(page, given)` in a fresh browser context and prints what it returns, together with what happened meanwhile:
// errors (console and uncaught), violations of the content security policy, and the origins of all requests.
export async function inPage(visit) {
  const browser = await chromium.connect(given.browser);
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
  const errors = [];
  const violations = [];
  const origins = new Set();
  await context.exposeBinding("tellViolation", (_, violation) => violations.push(violation));
  await context.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) =>
      window.tellViolation(`${event.effectiveDirective} ${event.blockedURI}`),
    );
  });
  const page = await context.newPage();
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("request", (request) => {
    const address = new URL(request.url());
    if (address.protocol !== "data:" && address.protocol !== "blob:") origins.add(address.origin);
  });
  page.setDefaultTimeout(120_000);
  try {
    const found = await visit(page, given);
    console.log(JSON.stringify({ ...found, errors, violations, origins: [...origins] }));
  } catch (error) {
    console.error(JSON.stringify({ errors, violations, text: await page.innerText("body").catch(String) }, null, 1));
    throw error;
  } finally {
    await browser.close();
  }
}
