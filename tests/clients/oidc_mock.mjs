// An OpenID provider of somebody else's making. POST /control says what it does differently from now on:
//   idToken, userInfo, tokenResponse, configuration: members to set, null takes one away
//   redirect: parameters to set on the way back     rotate: sign with new keys
import { Events, OAuth2Server } from "oauth2-mock-server";

const server = new OAuth2Server();
await server.issuer.keys.generate("RS256");
let said = {};

const change = (target, members = {}) => {
  for (const [name, value] of Object.entries(members)) {
    if (value === null) delete target[name];
    else target[name] = value;
  }
};

server.service.addRoute("POST", "/control", async (request, response) => {
  said = request.body;
  if (said.rotate) {
    // Keys are used in turn, the access token's first. Two new ones with the old ones behind them: the next ID token has a new one.
    const old = server.issuer.keys.toJSON().map((key) => key.kid);
    await server.issuer.keys.generate("RS256");
    await server.issuer.keys.generate("RS256");
    for (const kid of old) server.issuer.keys.get(kid);
  }
  response.statusCode = 204;
  response.end();
});
server.service.on(Events.BeforeTokenSigning, (token) => {
  if ("aud" in token.payload) change(token.payload, said.idToken); // access tokens name no audience here
});
server.service.on(Events.BeforeUserinfo, (answer) => change(answer.body, said.userInfo));
server.service.on(Events.BeforeResponse, (answer) => change(answer.body, said.tokenResponse));
server.service.on(Events.BeforeWellKnownOpenIdConfiguration, (answer) => change(answer.body, said.configuration));
server.service.on(Events.BeforeAuthorizeRedirect, (way) => {
  for (const [name, value] of Object.entries(said.redirect ?? {})) way.url.searchParams.set(name, value);
});

await server.start(0, "127.0.0.1");
console.log(JSON.stringify({ issuer: server.issuer.url }));
