// A passkey in a real browser: made on the account page, and then all that signs in. The authenticator is the browser's own
// virtual one (WebDriver extension of WebAuthn Level 3, section 11), which answers for its user.
import { inPage } from "./page.mjs";

await inPage(async (page, { url, email, password, shots }) => {
  const shot = async (name) => {
    if (!shots) return;
    for (const [kind, width, height] of [["desktop", 1280, 800], ["phone", 390, 844]]) {
      await page.setViewportSize({ width, height });
      await page.screenshot({ path: `${shots}/${name}-${kind}.png`, fullPage: true });
    }
  };
  const client = await page.context().newCDPSession(page);
  await client.send("WebAuthn.enable", { enableUI: false });
  const { authenticatorId } = await client.send("WebAuthn.addVirtualAuthenticator", {
    options: {
      protocol: "ctap2",
      transport: "internal",
      hasResidentKey: true,
      hasUserVerification: true,
      isUserVerified: true,
      automaticPresenceSimulation: false,
    },
  });
  const present = (enabled) => client.send("WebAuthn.setAutomaticPresenceSimulation", { authenticatorId, enabled });

  await page.goto(`${url}/identity/login`);
  await shot("login");
  await page.getByLabel("Mail address or phone number").fill(email);
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Sign in", exact: true }).click();
  await page.waitForURL("**/identity/account");
  await page.getByRole("link", { name: "Add a passkey" }).click();
  await page.getByLabel("What shall we call it?").fill("this browser");
  await shot("passkey-add");
  await present(true);
  await page.getByRole("button", { name: "Add it" }).click();
  await page.waitForURL("**/identity/account?done=passkey");
  await present(false);
  await shot("account");
  const added = await page.getByRole("heading", { name: "this browser" }).count();
  const { credentials } = await client.send("WebAuthn.getCredentials", { authenticatorId });

  const signOut = async () => {
    await page.goto(`${url}/identity/logout`);
    await page.getByRole("button", { name: /sign out/i }).first().click();
    await page.waitForLoadState();
  };

  // By the button.
  await signOut();
  await page.goto(`${url}/identity/login`);
  await page.getByRole("button", { name: "Sign in with a passkey" }).waitFor();
  await present(true);
  const byButton = page.waitForURL("**/identity/account");
  await page
    .getByRole("button", { name: "Sign in with a passkey" })
    .click({ timeout: 5000 })
    .catch(() => {}); // the offer in the field may have been taken first
  await byButton;
  await present(false);

  // By what the browser offers in the field for the name: nothing is pressed.
  await signOut();
  await present(true);
  await page.goto(`${url}/identity/login?continue=/identity/account/password`);
  await page.waitForURL(({ pathname }) => pathname === "/identity/account/password");
  await present(false);

  // The app: begun with a picture, ended with codes to keep.
  await page.goto(`${url}/identity/account/totp`);
  await shot("totp-off");
  await page.getByRole("button", { name: "Begin" }).click();
  await page.getByText("Type it in instead").click();
  const secret = (await page.locator("code").innerText()).replaceAll(" ", "");
  await shot("totp-begun");
  await page.getByRole("textbox", { name: "Code" }).fill(await totp(secret));
  await page.getByRole("button", { name: "Switch it on" }).click();
  await page.getByRole("button", { name: "Print them" }).waitFor();
  const codes = await page.locator("ol code").allInnerTexts();
  await shot("recovery-codes");
  await page.getByRole("link", { name: "I have kept them" }).click();
  await page.waitForURL("**/identity/account");
  await page.goto(`${url}/identity/account/totp`);
  await shot("totp-on");

  // The passkey as second step, behind the password.
  await signOut();
  await page.goto(`${url}/identity/login`);
  await page.getByLabel("Mail address or phone number").fill(email);
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Sign in", exact: true }).click();
  await page.waitForURL("**/identity/login/second**");
  await shot("second-totp");
  await page.getByRole("button", { name: "Use a passkey" }).click();
  await page.getByText("Confirm with a passkey of yours.").waitFor();
  await shot("second-passkey");
  await present(true);
  await page.getByRole("button", { name: "Use a passkey" }).click();
  await page.waitForURL("**/identity/account");
  return { added, kept: credentials.length, resident: credentials[0].isResidentCredential, codes: codes.length };
});

// RFC 6238, as authenticator apps do it.
async function totp(secret) {
  const signs = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
  const bits = [...secret].map((sign) => signs.indexOf(sign).toString(2).padStart(5, "0")).join("");
  const seed = Uint8Array.from(bits.match(/.{8}/g), (byte) => parseInt(byte, 2));
  const key = await crypto.subtle.importKey("raw", seed, { name: "HMAC", hash: "SHA-1" }, false, ["sign"]);
  const step = new DataView(new ArrayBuffer(8));
  step.setBigUint64(0, BigInt(Math.floor(Date.now() / 30000)));
  const digest = new DataView(await crypto.subtle.sign("HMAC", key, step.buffer));
  const offset = digest.getUint8(19) & 15;
  return String((digest.getUint32(offset) & 0x7fffffff) % 1000000).padStart(6, "0");
}
