// What `openid-client` does against a server of which it knows nothing but the issuer, one step a call; prints what it saw.
import * as client from "openid-client";
import { Person } from "./oauth_person.mjs";

const given = JSON.parse(process.argv[2]);
const { issuer, callback, bye, scope } = given;
const insecure = { execute: [client.allowInsecureRequests] };
const person = new Person(issuer, given.email, given.password);

// The library would send a secret in the form; our clients are registered for the header, which is the default of the standard.
const discover = (which, auth = client.ClientSecretBasic(which.client_secret)) =>
  client.discovery(new URL(issuer), which.client_id, undefined, auth, insecure);

// From the first request to the tokens, with everything checked that the library checks.
async function signedIn(config, { further = {}, pushed = false, options, decide } = {}) {
  const verifier = client.randomPKCECodeVerifier();
  const [state, nonce] = [client.randomState(), client.randomNonce()];
  const parameters = {
    redirect_uri: callback,
    scope,
    state,
    nonce,
    code_challenge: await client.calculatePKCECodeChallenge(verifier),
    code_challenge_method: "S256",
    ...further,
  };
  const address = pushed
    ? await client.buildAuthorizationUrlWithPAR(config, parameters, options)
    : client.buildAuthorizationUrl(config, parameters);
  const back = await person.authorize(address, decide);
  const checks = { pkceCodeVerifier: verifier, expectedState: state, expectedNonce: nonce, idTokenExpected: true };
  if (further.max_age !== undefined) checks.maxAge = further.max_age;
  return { address, back, tokens: await client.authorizationCodeGrant(config, back, checks, undefined, options) };
}

const failure = async (promise) => promise.then(
  () => ({ refused: false }),
  ({ error, status, code, cause }) => ({ refused: true, error: error ?? cause?.error, status, code, challenges: cause?.map?.(({ scheme, parameters }) => ({ scheme, ...parameters })) }),
);

const steps = {
  async code() {
    const config = await discover(given.client);
    const { tokens } = await signedIn(config, { decide: { untick: ["posts:write"] }, further: { max_age: 300 } });
    const claims = tokens.claims();
    const user = await client.fetchUserInfo(config, tokens.access_token, claims.sub);
    const seen = await client.tokenIntrospection(config, tokens.access_token);
    const refreshed = await client.refreshTokenGrant(config, tokens.refresh_token);
    const narrowed = await client.refreshTokenGrant(config, refreshed.refresh_token, { scope: "openid posts:read" });
    const wider = await failure(client.refreshTokenGrant(config, narrowed.refresh_token, { scope: "openid posts:write" }));
    await client.tokenRevocation(config, narrowed.refresh_token);
    const over = await client.tokenIntrospection(config, narrowed.access_token);
    const after = await failure(client.refreshTokenGrant(config, narrowed.refresh_token));
    const noUser = await failure(client.fetchUserInfo(config, narrowed.access_token, claims.sub));
    return { supports: config.serverMetadata().supportsPKCE(), tokens, claims, user, seen, refreshed, narrowed, wider, over, after, noUser };
  },

  async denied() {
    const config = await discover(given.client);
    return failure(signedIn(config, { decide: { decision: "deny" } }));
  },

  async wrongSecret() {
    const wrong = "cs_live_wrong";
    const inHeader = await discover(given.client, client.ClientSecretBasic(wrong));
    const inForm = await discover(given.client, client.ClientSecretPost(wrong));
    return { inHeader: await failure(signedIn(inHeader)), inForm: await failure(signedIn(inForm)) };
  },

  async secretInForm() {
    const config = await discover(given.client, client.ClientSecretPost(given.client.client_secret));
    const { tokens } = await signedIn(config);
    return { scope: tokens.scope };
  },

  async pushed() {
    const config = await discover(given.client);
    const { address, tokens } = await signedIn(config, { pushed: true });
    return { parameters: [...address.searchParams.keys()], subject: tokens.claims().sub, scope: tokens.scope };
  },

  async dpop() {
    const config = await discover(given.client, client.None());
    const keys = await client.randomDPoPKeyPair("ES256");
    const DPoP = client.getDPoPHandle(config, keys);
    const { tokens } = await signedIn(config, { options: { DPoP }, pushed: given.pushed });
    const subject = tokens.claims().sub;
    const user = await client.fetchUserInfo(config, tokens.access_token, subject, { DPoP });
    const asBearer = await failure(client.fetchUserInfo(config, tokens.access_token, subject));
    const withoutProof = await failure(client.refreshTokenGrant(config, tokens.refresh_token));
    const other = client.getDPoPHandle(config, await client.randomDPoPKeyPair("ES256"));
    const otherKey = await failure(client.refreshTokenGrant(config, tokens.refresh_token, undefined, { DPoP: other }));
    const refreshed = await client.refreshTokenGrant(config, tokens.refresh_token, undefined, { DPoP });
    return { type: tokens.token_type, subject, user, asBearer, withoutProof, otherKey, again: refreshed.token_type };
  },

  async device() {
    const config = await discover(given.client, client.None());
    const started = await client.initiateDeviceAuthorization(config, { scope });
    const waiting = client.pollDeviceAuthorizationGrant(config, started);
    const page = await person.authorize(started.verification_uri, {
      untick: ["files:write"],
      decision: given.decision,
      values: { user_code: started.user_code.toLowerCase().replace("-", " ") },
    });
    if (given.decision === "deny") return { started, page: page.status, outcome: await failure(waiting) };
    const tokens = await waiting;
    const user = await client.fetchUserInfo(config, tokens.access_token, tokens.claims().sub);
    const refreshed = await client.refreshTokenGrant(config, tokens.refresh_token);
    return { started, page: page.status, tokens, user, again: refreshed.scope };
  },

  async machine() {
    const config = await discover(given.client);
    const tokens = await client.clientCredentialsGrant(config, { scope: "posts:read", resource: given.resource });
    const seen = await client.tokenIntrospection(config, tokens.access_token);
    await client.tokenRevocation(config, tokens.access_token);
    const over = await client.tokenIntrospection(config, tokens.access_token);
    const unknownScope = await failure(client.clientCredentialsGrant(config, { scope: "files:write" }));
    const unknownResource = await failure(client.clientCredentialsGrant(config, { resource: "https://other.example" }));
    return { tokens, seen, over, unknownScope, unknownResource };
  },

  // Registers itself with a key of its own and proves itself with that ever after.
  async registered() {
    const { publicKey, privateKey } = await crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, true, ["sign", "verify"]);
    const jwk = { ...(await crypto.subtle.exportKey("jwk", publicKey)), kid: "mine", alg: "ES256", use: "sig" };
    const metadata = {
      client_name: "An app with a key",
      redirect_uris: [callback],
      token_endpoint_auth_method: "private_key_jwt",
      grant_types: ["authorization_code", "refresh_token"],
      scope,
      jwks: { keys: [jwk] },
    };
    const proof = client.PrivateKeyJwt({ key: privateKey, kid: "mine" });
    const options = { ...insecure, initialAccessToken: given.initialToken };
    const config = await client.dynamicClientRegistration(new URL(issuer), metadata, proof, options);
    const { tokens } = await signedIn(config, { pushed: true });
    const refreshed = await client.refreshTokenGrant(config, tokens.refresh_token);
    const stranger = await crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, true, ["sign", "verify"]);
    const wrong = client.PrivateKeyJwt({ key: stranger.privateKey, kid: "mine" });
    const impostor = new client.Configuration(config.serverMetadata(), config.clientMetadata().client_id, undefined, wrong);
    client.allowInsecureRequests(impostor);
    const wrongKey = await failure(client.refreshTokenGrant(impostor, refreshed.refresh_token));
    return { metadata: config.clientMetadata(), scope: tokens.scope, again: refreshed.scope, wrongKey };
  },

  async openRegistration() {
    const metadata = { client_name: "Anybody's app", redirect_uris: [callback], token_endpoint_auth_method: "none" };
    const config = await client.dynamicClientRegistration(new URL(issuer), metadata, client.None(), insecure);
    const asked = { further: { scope: "openid profile" } };
    const { tokens } = await signedIn(config, asked);
    const tooMuch = await failure(signedIn(config, { further: { scope: "openid files:write" } }));
    return { metadata: config.clientMetadata(), subject: tokens.claims().sub, scope: tokens.scope, tooMuch };
  },

  async logout() {
    const config = await discover(given.client);
    const { tokens } = await signedIn(config);
    const address = client.buildEndSessionUrl(config, {
      id_token_hint: tokens.id_token,
      post_logout_redirect_uri: bye,
      state: "until next time",
    });
    const back = await person.authorize(address, { decision: "logout" });
    const silent = await failure(signedIn(config, { further: { prompt: "none" } }));
    const refreshing = await failure(client.refreshTokenGrant(config, tokens.refresh_token));
    return { back: String(back), silent, refreshing };
  },
};

console.log(JSON.stringify(await steps[given.step]()));
