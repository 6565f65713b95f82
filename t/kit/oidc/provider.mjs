// A real OpenID provider for the tests: oidc-provider, on loopback, over TLS.
//
// Standard input: one line of JSON that describes it (kit/oidc/provider.py writes it), then one command a line.
// Standard output: one line of JSON for each. The end of standard input ends the process.
//
// A test needs no browser: the grant type TOKEN gives any account an access token. Everything else is the provider's own.

import { readFileSync } from "node:fs";
import { createServer } from "node:https";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

// Where the packages are is for t/run to say; imports of ECMAScript modules do not look at NODE_PATH.
const { Provider } = await import(pathToFileURL(`${process.argv[2]}/oidc-provider/lib/index.js`));

// Standard output is for answers alone; the provider has remarks of its own.
console.log = console.info = console.warn = console.error;

const TOKEN = "urn:pfxhttpd:test:token";
const CLIENT_METHODS = [
  "client_secret_basic",
  "client_secret_post",
  "client_secret_jwt",
  "private_key_jwt",
  "none",
];
const SIGNING = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA"];

// Models outlive the provider object, which is made anew when the keys change.
const stored = new Map();
class Adapter {
  constructor(model) {
    this.model = model;
  }
  key(id) {
    return `${this.model}:${id}`;
  }
  async find(id) {
    return stored.get(this.key(id));
  }
  async findByUid() {
    return undefined;
  }
  async findByUserCode() {
    return undefined;
  }
  async upsert(id, payload) {
    stored.set(this.key(id), payload);
  }
  async consume(id) {
    stored.get(this.key(id)).consumed = Math.floor(Date.now() / 1000);
  }
  async destroy(id) {
    stored.delete(this.key(id));
  }
  async revokeByGrantId(grantId) {
    for (const [key, payload] of stored) if (payload.grantId === grantId) stored.delete(key);
  }
}

function claimsOf(account) {
  const [local] = account.split("@");
  return { sub: account, preferred_username: local, email: account, email_verified: local !== "unverified" };
}

function resourceServer(resource) {
  const alg = new URL(resource).searchParams.get("alg") ?? "RS256";
  const scope = "mail api.read api.write openid";
  return { audience: resource, scope, accessTokenFormat: "jwt", jwt: { sign: { alg } } };
}

function make(options, jwks) {
  const provider = new Provider(options.issuer, {
    adapter: Adapter,
    clients: options.clients,
    jwks,
    clientAuthMethods: CLIENT_METHODS,
    enabledJWA: {
      clientAuthSigningAlgValues: ["HS256", ...SIGNING],
      idTokenSigningAlgValues: SIGNING,
      userinfoSigningAlgValues: SIGNING,
      introspectionSigningAlgValues: SIGNING,
    },
    scopes: ["openid", "email", "profile", "mail", "api.read", "api.write"],
    claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["preferred_username"] },
    findAccount: (context, account) => ({ accountId: account, claims: () => claimsOf(account) }),
    extraTokenClaims: (context, token) =>
      token.accountId ? { preferred_username: claimsOf(token.accountId).preferred_username } : {},
    ttl: { ClientCredentials: options.service_ttl, AccessToken: 600 },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      revocation: { enabled: true },
      userinfo: { enabled: true },
      introspection: {
        enabled: true,
        // Like Keycloak, Authentik and Nauthilus: a token of another client is none of the asker's business.
        allowedPolicy: (context, client, token) => client.clientId !== "stranger",
      },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => undefined,
        useGrantedResource: () => true,
        getResourceServerInfo: (context, resource) => resourceServer(resource),
      },
    },
    pkce: { required: () => false },
  });
  provider.on("server_error", (context, error) => console.error(error));
  provider.registerGrantType(
    TOKEN,
    async (context) => {
      const { params, client } = context.oidc;
      const grant = new provider.Grant({ clientId: client.clientId, accountId: params.account });
      grant.addOIDCScope(params.scope ?? "");
      const token = new provider.AccessToken({
        client,
        accountId: params.account,
        grantId: await grant.save(),
        gty: TOKEN,
        scope: params.scope,
        expiresIn: params.ttl ? Number(params.ttl) : undefined,
      });
      if (params.resource) {
        token.resourceServer = new provider.ResourceServer(params.resource, resourceServer(params.resource));
      }
      context.body = { access_token: await token.save(), token_type: "Bearer", expires_in: token.expiration };
    },
    ["account", "scope", "ttl", "resource"],
  );
  return provider;
}

const requests = [];
let handle;
let provider;

function use(options, jwks) {
  provider = make(options, jwks);
  const callback = provider.callback();
  handle = callback;
}

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const answer = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

const options = JSON.parse((await lines.next()).value);
const commands = {
  rotate: ({ jwks }) => use(options, jwks),
  requests: () => ({ requests: requests.splice(0) }),
};

use(options, options.jwks);
const server = createServer(
  { cert: readFileSync(options.certificate), key: readFileSync(options.key) },
  (request, response) => {
    requests.push(`${request.method} ${request.url.split("?")[0]}`);
    handle(request, response);
  },
);
server.listen(options.port, "127.0.0.1", () => answer({ ready: true }));

for (let line = await lines.next(); !line.done; line = await lines.next()) {
  const { command, ...rest } = JSON.parse(line.value);
  answer({ ...commands[command](rest), done: command });
}
process.exit(0);
