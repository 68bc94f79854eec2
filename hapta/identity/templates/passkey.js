// Passkeys on our pages: makes one, signs in with one, gives one as second proof. Everything ends in an ordinary form, which
// the server answers as any other; options and credentials travel as WebAuthn Level 3 writes them in JSON.
"use strict";
(() => {
  const part = document.querySelector("[data-passkey]");
  if (!part || !window.PublicKeyCredential || !navigator.credentials) return;
  const form = part.closest("form");
  const trouble = form.querySelector("[data-trouble]");
  const START = "/identity/v1/login/passkey/start";
  const RENEW_MS = 240000; // before the challenge ends, after five minutes
  let waiting = null; // what ends the offer in the browser's list of accounts

  const bytes = (text) =>
    Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (sign) => sign.charCodeAt(0));
  const text = (buffer) =>
    btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  const named = (list) => (list || []).map((one) => ({ ...one, id: bytes(one.id) }));

  const forMaking = (options) => ({
    ...options,
    challenge: bytes(options.challenge),
    user: { ...options.user, id: bytes(options.user.id) },
    excludeCredentials: named(options.excludeCredentials),
  });
  const forProving = (options) => ({
    ...options,
    challenge: bytes(options.challenge),
    allowCredentials: named(options.allowCredentials),
  });

  const asJson = (credential) => {
    const given = credential.response;
    const response = { clientDataJSON: text(given.clientDataJSON) };
    if (given.attestationObject) {
      response.attestationObject = text(given.attestationObject);
      response.transports = given.getTransports ? given.getTransports() : [];
    } else {
      response.authenticatorData = text(given.authenticatorData);
      response.signature = text(given.signature);
      if (given.userHandle) response.userHandle = text(given.userHandle);
    }
    const rawId = text(credential.rawId);
    return JSON.stringify({ id: rawId, rawId, type: credential.type, response, clientExtensionResults: {} });
  };

  const say = (error) => {
    const known = {
      NotAllowedError: "That was not finished. You can try again.",
      InvalidStateError: "This device has a passkey of this account already.",
      SecurityError: "Passkeys do not work at this address of the server.",
    };
    trouble.textContent = known[error.name] || "Your browser could not do this. You can try again.";
    trouble.hidden = false;
  };

  const send = (ceremony, credential) => {
    form.elements.ceremony.value = ceremony;
    form.elements.credential.value = asJson(credential);
    const remember = document.getElementById("remember");
    if (form.elements.remember && remember) form.elements.remember.value = remember.checked ? "1" : "";
    form.submit();
  };

  const onPage = () => ({ id: form.elements.ceremony.value, options: JSON.parse(part.dataset.options) });

  const fetched = async () => {
    const answer = await fetch(START, { method: "POST", headers: { accept: "application/json" } });
    if (!answer.ok) throw new Error("no challenge");
    return (await answer.json()).data;
  };

  // Passkeys among the accounts that the browser offers in the field for the name.
  const offer = async () => {
    if (!(await PublicKeyCredential.isConditionalMediationAvailable?.())) return;
    const ended = new AbortController();
    waiting = ended;
    const renewed = setTimeout(() => {
      ended.abort();
      offer();
    }, RENEW_MS);
    try {
      const { id, options } = await fetched();
      if (ended.signal.aborted) return;
      const asked = { publicKey: forProving(options), mediation: "conditional", signal: ended.signal };
      send(id, await navigator.credentials.get(asked));
    } catch {
      // It was ended, or the server has no challenge for now: the button remains.
    } finally {
      clearTimeout(renewed);
    }
  };

  const act = async () => {
    trouble.hidden = true;
    waiting?.abort();
    try {
      if (part.dataset.passkey === "make") {
        const { id, options } = onPage();
        send(id, await navigator.credentials.create({ publicKey: forMaking(options) }));
      } else {
        const { id, options } = part.dataset.passkey === "login" ? await fetched() : onPage();
        send(id, await navigator.credentials.get({ publicKey: forProving(options) }));
      }
    } catch (error) {
      say(error);
      if (part.dataset.passkey === "login") offer();
    }
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    act();
  });
  part.hidden = false;
  if (part.dataset.passkey === "login") offer();
})();
