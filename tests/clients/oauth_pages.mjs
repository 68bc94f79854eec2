// A person in a real browser: signs up, reads the code in the mail, signs in, allows an app some of what it asks for, connects a device,
// looks at the account, signs out. Every page is held against axe's rules on a phone and on a desk, and photographed.
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { readFile, readdir, watch } from "node:fs/promises";
import { createServer } from "node:http";
import { join } from "node:path";
import axe from "axe-core";
import { inPage } from "./page.mjs";

const SIZES = { phone: { width: 390, height: 844 }, desk: { width: 1280, height: 800 } };
const APP_PAGE = '<!doctype html><html lang="en"><title>The app</title><link rel="icon" href="data:,"><p>The app';
const challenge = (verifier) => createHash("sha256").update(verifier).digest("base64url");

// The code in the newest mail of the folder, as soon as there is one.
async function mailedCode(folder, signal) {
  const look = async () => {
    const mails = (await readdir(folder).catch(() => [])).filter((name) => name.endsWith(".eml")).sort();
    const text = mails.length ? await readFile(join(folder, mails.at(-1)), "utf8") : "";
    return text.match(/^\s*(\d{6,8})\s*$/m)?.[1];
  };
  const changes = watch(folder, { signal });
  for (let code = await look(); ; code = await look()) {
    if (code) return code;
    await changes.next();
  }
}

await inPage(async (page, given) => {
  const { url, client, telly, callback, bye, email, password, scope, outbox, shots } = given;
  const faults = [];
  const seen = [];
  // Looks at the page that is open: on a phone by day with all rules, by night with those about colours, and on a desk.
  await page.context().addInitScript(axe.source);
  const look = async (name) => {
    for (const [size, colorScheme, rules] of [
      ["phone", "light", ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]],
      ["phone", "dark", ["cat.color"]],
      ["desk", "light", ["wcag22aa"]],
    ]) {
      await page.setViewportSize(SIZES[size]);
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      const found = await page.evaluate(async (runOnly) => {
        const { violations } = await axe.run({ runOnly, resultTypes: ["violations"] });
        const rows = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html.slice(0, 200)).join(" ")}`);
        const wide = document.documentElement.scrollWidth - innerWidth;
        return wide > 0 ? [...rows, `${wide} pixels too wide`] : rows;
      }, rules);
      faults.push(...found.map((fault) => `${name}, ${size}, ${colorScheme}: ${fault}`));
      if (shots) await page.screenshot({ path: join(shots, `${name}-${size}-${colorScheme}.png`), fullPage: true });
    }
    seen.push([name, await page.title()]);
  };
  const press = (name) => page.getByRole("button", { name, exact: true }).click();

  // The app: what its pages would show is of no interest, only where the browser comes to. It listens, as Playwright does not stand
  // in for the target of a redirect.
  const app = createServer((_, answer) => answer.setHeader("content-type", "text/html").end(APP_PAGE));
  app.listen(Number(new URL(callback).port), new URL(callback).hostname);
  await once(app, "listening");

  const verifier = randomBytes(32).toString("base64url");
  const asked = (more = {}) => {
    const parameters = { client_id: client.client_id, response_type: "code", redirect_uri: callback, scope, state: "s", ...more };
    return `${url}/oauth/authorize?${new URLSearchParams({ ...parameters, code_challenge: challenge(verifier), code_challenge_method: "S256" })}`;
  };

  await page.goto(asked());
  await look("login");
  await page.getByRole("link", { name: "Create one" }).click();
  await look("register");
  await page.getByLabel("Your name").fill("Ada Lovelace");
  await page.getByLabel("Mail address").fill(email);
  await page.getByLabel("Password").fill(password);
  await press("Create the account");
  await page.getByRole("heading", { name: "Enter the code" }).waitFor();
  await look("verify");
  const gaveUp = AbortSignal.timeout(120_000);
  const code = await mailedCode(outbox, gaveUp);
  await page.getByLabel("Code").fill(code === "000000" ? "111111" : "000000");
  await press("Verify");
  await look("verify-wrong");
  await page.getByLabel("Code").fill(code);
  await press("Verify");
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  await look("login-verified");
  await page.getByLabel("Mail address or phone number").fill(email);
  await page.getByLabel("Password").fill("not this one");
  await press("Sign in");
  await page.getByRole("alert").waitFor();
  await look("login-wrong");
  await page.getByLabel("Mail address or phone number").fill(email);
  await page.getByLabel("Password").fill(password);
  await press("Sign in");
  await page.getByRole("heading", { name: "asks for access" }).waitFor();
  await look("consent");
  await page.getByLabel("write and change posts for you").uncheck();
  await press("Allow");
  await page.waitForURL(`${callback}**`);
  const back = Object.fromEntries(new URL(page.url()).searchParams);
  const redeemed = await fetch(`${url}/oauth/token`, {
    method: "POST",
    body: new URLSearchParams({ grant_type: "authorization_code", code: back.code, redirect_uri: callback, code_verifier: verifier, client_id: client.client_id }),
  });
  const tokens = await redeemed.json();

  await page.goto(asked({ prompt: "select_account" }));
  await look("choose-account");
  await page.goto(asked({ prompt: "login" }));
  await look("login-again");
  await page.goto(asked({ redirect_uri: "https://evil.example/" }));
  await look("refused");

  const started = await (await fetch(`${url}/oauth/device_authorization`, { method: "POST", body: new URLSearchParams({ client_id: telly.client_id, scope }) })).json();
  await page.goto(started.verification_uri);
  await look("device");
  await page.getByLabel("Code").fill("BBBB-BBBB");
  await press("Continue");
  await look("device-wrong");
  await page.getByLabel("Code").fill(started.user_code.toLowerCase());
  await press("Continue");
  await page.getByRole("heading", { name: "on a device" }).waitFor();
  await look("device-confirm");
  await press("Allow");
  await page.getByRole("heading", { name: "connected" }).waitFor();
  await look("device-done");
  const poll = await fetch(`${url}/oauth/token`, {
    method: "POST",
    body: new URLSearchParams({ grant_type: "urn:ietf:params:oauth:grant-type:device_code", device_code: started.device_code, client_id: telly.client_id }),
  });
  const device = await poll.json();

  const account = {};
  for (const [name, path] of Object.entries({ account: "", password: "/password", email: "/email", phone: "/phone" })) {
    const answer = await page.goto(`${url}/identity/account${path}`);
    account[name] = answer.status();
    if (answer.ok()) await look(`account-${name}`);
    if (name === "account") account.text = await page.innerText("main");
  }

  await page.goto(`${url}/oauth/logout?${new URLSearchParams({ id_token_hint: tokens.id_token, post_logout_redirect_uri: bye, state: "x" })}`);
  await look("oauth-logout");
  await press("Sign out");
  await page.waitForURL(`${bye}**`);
  const left = page.url();
  for (const path of ["forgot", "login/code", "logout"]) {
    await page.goto(`${url}/identity/${path}`);
    await look(path.replace("/", "-"));
  }
  const answer = await page.request.get(asked({ prompt: "none" }), { maxRedirects: 0 });
  const silent = new URL(answer.headers().location).searchParams.get("error");

  // And once more without scripts.
  const plain = await page.context().browser().newContext({ javaScriptEnabled: false, viewport: SIZES.phone });
  const old = await plain.newPage();
  await old.goto(asked({ prompt: "consent" }));
  await old.getByLabel("Mail address or phone number").fill(email);
  await old.getByLabel("Password").fill(password);
  await old.getByRole("button", { name: "Sign in", exact: true }).click();
  await old.getByRole("button", { name: "Deny" }).click();
  await old.waitForURL(`${callback}**`);
  const without = new URL(old.url()).searchParams.get("error");

  app.close();
  app.closeAllConnections();
  return { seen, faults, back, tokens, device, account, left, silent, without };
});
