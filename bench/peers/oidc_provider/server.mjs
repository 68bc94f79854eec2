// oidc-provider with its own adapter in memory. Argument: JSON with `port` and `families`, how many refresh tokens to hand out.
// Once it listens it prints one line of JSON: its client, and for each family a refresh token and an access token that an earlier use
// of it would have given.
//
// Its access tokens are opaque, as it makes them by itself; for the resource `jwt` they are signed with ES256 like Hapta's.
import { generateKeyPairSync, randomBytes } from "node:crypto";
import Provider from "oidc-provider";

const { port, families } = JSON.parse(process.argv[2]);
const issuer = `http://127.0.0.1:${port}`;
const client = { client_id: "bench", client_secret: randomBytes(32).toString("base64url") };
const scope = "offline_access posts:read posts:write";
const resource = "https://api.example/v1";
const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });

const provider = new Provider(issuer, {
  clients: [
    {
      ...client,
      grant_types: ["authorization_code", "refresh_token", "client_credentials"],
      redirect_uris: ["https://app.example/callback"],
      id_token_signed_response_alg: "ES256",
      scope,
    },
  ],
  jwks: { keys: [{ ...privateKey.export({ format: "jwk" }), use: "sig", alg: "ES256" }] },
  scopes: scope.split(" "),
  cookies: { keys: [randomBytes(32).toString("base64url")] },
  features: {
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: () => ({ scope, accessTokenFormat: "jwt", jwt: { sign: { alg: "ES256" } } }),
      useGrantedResource: () => true,
    },
  },
  interactions: { url: () => "/nowhere" },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  rotateRefreshToken: true,
  ttl: { AccessToken: 3600, ClientCredentials: 600, Grant: 86400, RefreshToken: 86400 },
});

const bound = await provider.Client.find(client.client_id);
const tokens = [];
for (let n = 0; n < families; n += 1) {
  const accountId = `person-${n}`;
  const grant = new provider.Grant({ accountId, clientId: client.client_id });
  grant.addOIDCScope(scope);
  grant.addResourceScope(resource, scope);
  const grantId = await grant.save();
  const granted = { client: bound, accountId, grantId, gty: "authorization_code", scope };
  tokens.push({
    access_token: await new provider.AccessToken(granted).save(),
    refresh_token: await new provider.RefreshToken({ ...granted, resource }).save(),
  });
}

const server = provider.listen(port, "127.0.0.1", () => {
  console.log(JSON.stringify({ ...client, resource, tokens }));
});
server.keepAliveTimeout = 3_600_000; // connections stay open while the other side has its turn
