// A provider for the tests: node-oidc-provider on loopback, with its own pages for logging in and consenting.
// node provider.mjs PORT KEYS ID_TOKEN_SECONDS; says "listening PORT" once it does. PORT 0 takes a free one.
import { generateKeyPairSync } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [port, keys, seconds] = process.argv.slice(2);
const require = createRequire(join(process.env.MUSTER_OIDC_PROVIDER, 'package.json'));
const { Provider } = await import(pathToFileURL(require.resolve('oidc-provider')).href);

// Who there is, and in which groups.
const people = { ana: ['ops', 'all'], bob: ['web'], eve: [] };

if (!existsSync(keys)) {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const key = { ...privateKey.export({ format: 'jwk' }), kid: `key-${Date.now()}`, alg: 'RS256', use: 'sig' };
  writeFileSync(keys, JSON.stringify({ keys: [key] }), { mode: 0o600 });
}

const client = (client_id) => ({
  client_id,
  application_type: 'native',
  token_endpoint_auth_method: 'none',
  redirect_uris: ['http://127.0.0.1/callback'],
  response_types: ['code'],
  grant_types: ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code'],
});

const server = createServer();
server.listen(Number(port), '127.0.0.1', () => {
  const taken = server.address().port;
  const provider = new Provider(`http://127.0.0.1:${taken}`, {
    clients: [client('muster'), client('other')],
    jwks: JSON.parse(readFileSync(keys, 'utf8')),
    findAccount: (_, id) => id in people && { accountId: id, claims: () => ({ sub: id, groups: people[id] }) },
    claims: { openid: ['sub', 'groups'] },
    conformIdTokenClaims: false,
    features: { deviceFlow: { enabled: true } },
    ttl: { IdToken: Number(seconds) },
  });
  server.on('request', (request) => console.log(request.method, request.url.split('?')[0]));
  server.on('request', provider.callback());
  console.log(`listening ${taken}`);
});
