// What `oauth4webapi` does, one step a call: it validates every answer by the letter of the standards and repairs nothing.
import * as oauth from "oauth4webapi";
import { Person } from "./oauth_person.mjs";

const given = JSON.parse(process.argv[2]);
const { issuer, callback, scope } = given;
const insecure = { [oauth.allowInsecureRequests]: true };
const person = new Person(issuer, given.email, given.password);
const app = { client_id: given.client?.client_id };
const auth = given.client?.client_secret ? oauth.ClientSecretBasic(given.client.client_secret) : oauth.None();

async function discovered(algorithm) {
  const url = new URL(issuer);
  return oauth.processDiscoveryResponse(url, await oauth.discoveryRequest(url, { algorithm, ...insecure }));
}

async function signedIn(as, { further = {}, DPoP, pushed = false, mode } = {}) {
  const verifier = oauth.generateRandomCodeVerifier();
  const [state, nonce] = [oauth.generateRandomState(), oauth.generateRandomNonce()];
  const parameters = new URLSearchParams({
    client_id: app.client_id,
    response_type: "code",
    redirect_uri: callback,
    scope,
    state,
    nonce,
    code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
    code_challenge_method: "S256",
    ...further,
  });
  const address = new URL(as.authorization_endpoint);
  let pushedAnswer;
  if (pushed) {
    const answer = await oauth.pushedAuthorizationRequest(as, app, auth, parameters, { DPoP, ...insecure });
    pushedAnswer = await oauth.processPushedAuthorizationResponse(as, app, answer);
    address.search = new URLSearchParams({ client_id: app.client_id, request_uri: pushedAnswer.request_uri });
  } else {
    address.search = parameters;
  }
  const back = await person.authorize(address);
  const checked = oauth.validateAuthResponse(as, app, back, state);
  const ask = () => oauth.authorizationCodeGrantRequest(as, app, auth, checked, callback, verifier, { DPoP, ...insecure });
  let answer = await ask();
  let tokens;
  try {
    tokens = await oauth.processAuthorizationCodeResponse(as, app, answer, { expectedNonce: nonce, requireIdToken: true });
  } catch (error) {
    if (!oauth.isDPoPNonceError(error)) throw error;
    answer = await ask(); // now with the nonce that the refusal brought
    tokens = await oauth.processAuthorizationCodeResponse(as, app, answer, { expectedNonce: nonce, requireIdToken: true });
  }
  await oauth.validateApplicationLevelSignature(as, answer, insecure);
  return { tokens, pushedAnswer, claims: oauth.getValidatedIdTokenClaims(tokens), again: ask };
}

// What a resource server makes of an access token by itself (RFC 9068), asked over the request that a client would send.
async function judged(as, token, headers = {}) {
  const request = new Request(given.resource, { headers: { authorization: `Bearer ${token}`, ...headers } });
  return oauth.validateJwtAccessToken(as, request, given.resource, insecure);
}

const failure = async (work) => {
  try {
    await work();
    return { refused: false };
  } catch (error) {
    return { refused: true, name: error.constructor.name, error: error.error, status: error.status, challenges: error.cause?.map?.(({ scheme, parameters }) => ({ scheme, ...parameters })) };
  }
};

const steps = {
  // Both documents, the resource's own one, and the keys.
  async discovery() {
    const [oidc, rfc8414] = [await discovered("oidc"), await discovered("oauth2")];
    const url = new URL(issuer);
    const resource = await oauth.processResourceDiscoveryResponse(url, await oauth.resourceDiscoveryRequest(url, insecure));
    return { oidc, rfc8414, resource };
  },

  async code() {
    const as = await discovered("oidc");
    const { tokens, claims, again } = await signedIn(as, { pushed: given.pushed });
    const userAnswer = await oauth.userInfoRequest(as, app, tokens.access_token, insecure);
    const user = await oauth.processUserInfoResponse(as, app, claims.sub, userAnswer);
    const token = await judged(as, tokens.access_token);
    const introspected = await oauth.introspectionRequest(as, app, auth, tokens.access_token, { requestJwtResponse: true, ...insecure });
    const type = introspected.headers.get("content-type");
    const seen = await oauth.processIntrospectionResponse(as, app, introspected);
    await oauth.validateApplicationLevelSignature(as, introspected, insecure);
    const refresh = async (value) => {
      const answer = await oauth.refreshTokenGrantRequest(as, app, auth, value, insecure);
      return oauth.processRefreshTokenResponse(as, app, answer);
    };
    const refreshed = await refresh(tokens.refresh_token);
    const twice = await refresh(tokens.refresh_token);
    const replayed = await failure(async () => oauth.processAuthorizationCodeResponse(as, app, await again()));
    const dead = await failure(() => refresh(refreshed.refresh_token));
    return { tokens, claims, user, token, type, seen, refreshed, twice, replayed, dead };
  },

  async revoked() {
    const as = await discovered("oauth2");
    const { tokens } = await signedIn(as);
    const revoke = async (value) => oauth.processRevocationResponse(await oauth.revocationRequest(as, app, auth, value, insecure));
    await revoke(tokens.access_token);
    await revoke("a token that never was");
    const user = await failure(async () => {
      await oauth.processUserInfoResponse(as, app, oauth.skipSubjectCheck, await oauth.userInfoRequest(as, app, tokens.access_token, insecure));
    });
    return { user };
  },

  async dpop() {
    const as = await discovered("oidc");
    const keys = await oauth.generateKeyPair("ES256");
    const DPoP = oauth.DPoP(app, keys);
    const { tokens, claims, pushedAnswer } = await signedIn(as, { DPoP, pushed: true });
    const ask = () => oauth.userInfoRequest(as, app, tokens.access_token, { DPoP, ...insecure });
    let user;
    try {
      user = await oauth.processUserInfoResponse(as, app, claims.sub, await ask());
    } catch (error) {
      if (!oauth.isDPoPNonceError(error)) throw error;
      user = await oauth.processUserInfoResponse(as, app, claims.sub, await ask());
    }
    return { pushedAnswer, type: tokens.token_type, user, key: await DPoP.calculateThumbprint() };
  },

  async machine() {
    const as = await discovered("oauth2");
    const parameters = new URLSearchParams({ scope: "posts:read", resource: given.resource });
    const answer = await oauth.clientCredentialsGrantRequest(as, app, auth, parameters, insecure);
    const tokens = await oauth.processClientCredentialsResponse(as, app, answer);
    return { tokens, token: await judged(as, tokens.access_token) };
  },

  async device() {
    const as = await discovered("oauth2");
    const first = await oauth.deviceAuthorizationRequest(as, app, auth, new URLSearchParams({ scope }), insecure);
    const started = await oauth.processDeviceAuthorizationResponse(as, app, first);
    const poll = async () => {
      const answer = await oauth.deviceCodeGrantRequest(as, app, auth, started.device_code, insecure);
      return oauth.processDeviceCodeResponse(as, app, answer);
    };
    const early = await failure(poll);
    await person.authorize(started.verification_uri_complete, { values: { user_code: started.user_code } });
    await new Promise((resolve) => setTimeout(resolve, started.interval * 1000)); // as the server has asked of every device
    const tokens = await poll();
    const after = await failure(poll);
    return { started, early, tokens, claims: oauth.getValidatedIdTokenClaims(tokens), after };
  },

  async registered() {
    const as = await discovered("oauth2");
    const metadata = { client_name: "A registered app", redirect_uris: [callback], scope: "openid profile" };
    const answer = await oauth.dynamicClientRegistrationRequest(as, metadata, { initialAccessToken: given.initialToken, ...insecure });
    const made = await oauth.processDynamicClientRegistrationResponse(answer);
    const headers = { authorization: `Bearer ${made.registration_access_token}`, "content-type": "application/json" };
    const call = (method, body) => fetch(made.registration_client_uri, { method, headers, body: body && JSON.stringify(body) });
    const read = await (await call("GET")).json();
    const replaced = await (await call("PUT", { ...metadata, client_id: made.client_id, client_name: "Another name" })).json();
    const removed = (await call("DELETE")).status;
    const gone = (await call("GET")).status;
    const uninvited = await failure(async () => {
      await oauth.processDynamicClientRegistrationResponse(await oauth.dynamicClientRegistrationRequest(as, metadata, insecure));
    });
    return { made, read, replaced, removed, gone, uninvited };
  },
};

console.log(JSON.stringify(await steps[given.step]()));
