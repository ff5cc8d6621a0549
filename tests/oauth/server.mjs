// An authorization server with oidc-provider: node server.mjs PATH-OF-OIDC-PROVIDER
//
// Prints its URL, then serves until it is killed. `POST /token` issues tokens by client credentials, with `resource`
// as their audience; `POST /token/introspection` and `POST /token/revocation` are RFC 7662 and RFC 7009. Below
// `/signed`, introspection requests get a signed response (RFC 9701), as if they had asked for one.

import http from 'node:http';
import { pathToFileURL } from 'node:url';

const { default: Provider } = await import(pathToFileURL(process.argv[2]).href);

const client = (id, grants) => ({
  client_id: id,
  client_secret: `the-secret-of-${id}`,
  grant_types: grants,
  redirect_uris: [],
  response_types: [],
});

const server = http.createServer();
await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  clients: [
    client('sync', ['client_credentials']),
    client('brief', ['client_credentials']),
    client('early', ['client_credentials']),
    { ...client('gateway', []), introspection_signed_response_alg: 'RS256' },
  ],
  scopes: ['items:read', 'items:create'],
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: (_, introspecting) => introspecting.clientId === 'gateway' },
    jwtIntrospection: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      getResourceServerInfo: (_, resource) => ({
        audience: resource,
        scope: 'items:read items:create',
        accessTokenFormat: 'opaque',
      }),
    },
  },
  ttl: { ClientCredentials: (_, __, { clientId }) => (clientId === 'brief' ? 2 : 600) },
  extraTokenClaims: (_, { clientId }) => (
    clientId === 'early' ? { nbf: Math.floor(Date.now() / 1000) + 3 } : undefined
  ),
});

const serve = provider.callback();
server.on('request', (request, response) => {
  if (request.url.startsWith('/signed/')) {
    request.url = request.url.slice('/signed'.length);
    request.headers.accept = 'application/token-introspection+jwt';
  }
  serve(request, response);
});
console.log(issuer);
