// Somebody else's authorization server, `oidc-provider`, made as like ours as its settings allow; the same scenario runs against both.
// Called with a port and the clients; prints its issuer once it listens. What it keeps, it keeps in memory.
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { createServer } from "node:http";
import Provider, { errors } from "oidc-provider";

const { port, clients, scope, api } = JSON.parse(process.argv[2]);
const issuer = `http://127.0.0.1:${port}`;
const scopes = scope.split(" ");
const OWN = ["openid", "offline_access", "profile", "email"];
const further = scopes.filter((name) => !OWN.includes(name)).join(" ");
const privateKey = (type, options, alg) => ({ ...generateKeyPairSync(type, options).privateKey.export({ format: "jwk" }), use: "sig", alg });

const provider = new Provider(issuer, {
  clients,
  jwks: { keys: [privateKey("ec", { namedCurve: "P-256" }, "ES256"), privateKey("rsa", { modulusLength: 2048 }, "RS256")] },
  cookies: { keys: [randomBytes(32).toString("base64url")] },
  scopes,
  claims: { openid: ["sub"], profile: ["name", "updated_at"], email: ["email", "email_verified"] },
  acrValues: ["1", "2"],
  subjectTypes: ["public"],
  responseTypes: ["code"],
  pkce: { required: () => true },
  clientAuthMethods: ["client_secret_basic", "client_secret_post", "private_key_jwt", "none"],
  enabledJWA: { clientAuthSigningAlgValues: ["ES256", "RS256", "PS256", "EdDSA"], dPoPSigningAlgValues: ["ES256", "RS256", "PS256", "EdDSA"] },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, email: id, email_verified: false, updated_at: 1 }) }),
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  rotateRefreshToken: true,
  issueRefreshToken: (_, client, code) => client.grantTypeAllowed("refresh_token") && code.scopes.has("offline_access"),
  clientBasedCORS: () => true,
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true, userCodeInputSource, userCodeConfirmSource, successSource },
    dPoP: { enabled: true, nonceSecret: randomBytes(32), requireNonce: () => false },
    introspection: { enabled: true },
    pushedAuthorizationRequests: { enabled: true },
    registration: { enabled: true, initialAccessToken: "an-invitation" },
    registrationManagement: { enabled: true },
    revocation: { enabled: true },
    rpInitiatedLogout: { enabled: true, logoutSource, postLogoutSuccessSource },
    resourceIndicators: {
      enabled: true,
      // With a resource its UserInfo would refuse the token.
      defaultResource: (_, client) => (client.clientId === "machine" ? issuer : undefined),
      useGrantedResource: () => true,
      getResourceServerInfo: (_, resource) => {
        if (resource !== issuer && resource !== api) throw new errors.InvalidTarget();
        return { scope: further, accessTokenFormat: "jwt", audience: resource, jwt: { sign: { alg: "ES256" } } };
      },
    },
  },
});

// --- pages, with the fields and buttons that our own have --------------------------------------------------------------------

function page(ctx, body) {
  ctx.type = "html";
  ctx.body = `<!doctype html><title>A page</title>${body}`;
}

function userCodeInputSource(ctx, form) {
  page(ctx, form.replace("</form>", '<input type="text" name="user_code"></form>'));
}

function userCodeConfirmSource(ctx, form) {
  page(ctx, form.replace("</form>", '<button name="decision" value="allow">Yes</button><button name="abort" value="yes">No</button></form>'));
}

function successSource(ctx) {
  page(ctx, "connected");
}

function logoutSource(ctx, form) {
  page(ctx, form.replace("</form>", '<button name="logout" value="yes">Yes</button></form>'));
}

function postLogoutSuccessSource(ctx) {
  page(ctx, "out");
}

async function interaction(request, response) {
  const details = await provider.interactionDetails(request, response);
  const finish = (result) => provider.interactionFinished(request, response, result, { mergeWithLastSubmission: false });
  if (request.method === "GET") {
    const fields = details.prompt.name === "login" ? '<input name="login"><input type="password" name="password">' : "";
    const buttons = '<button name="decision" value="allow">Yes</button><button name="decision" value="deny">No</button>';
    response.setHeader("content-type", "text/html");
    response.end(`<!doctype html><form method="post" action="${request.url}">${fields}${buttons}</form>`);
    return;
  }
  let text = "";
  for await (const part of request) text += part;
  const form = new URLSearchParams(text);
  if (form.get("decision") === "deny") return finish({ error: "access_denied", error_description: "no" });
  if (details.prompt.name === "login") return finish({ login: { accountId: form.get("login"), amr: ["pwd"], acr: "1" } });
  const grant = new provider.Grant({ accountId: details.session.accountId, clientId: details.params.client_id });
  grant.addOIDCScope(details.params.scope);
  for (const resource of [details.params.resource ?? []].flat()) grant.addResourceScope(resource, further);
  await finish({ consent: { grantId: await grant.save() } });
}

const serve = provider.callback();
const server = createServer((request, response) => {
  if (!request.url.startsWith("/interaction/")) return serve(request, response);
  interaction(request, response).catch((error) => {
    response.statusCode = 500;
    response.end(String(error));
  });
});
server.listen(port, "127.0.0.1", () => console.log(JSON.stringify({ issuer })));
