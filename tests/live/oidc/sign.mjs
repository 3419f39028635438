// A token with any header and claims, signed with the key of the provider (RS256), with its public key as a shared
// secret (HS256), or not at all (none). node sign.mjs KEYS HEADER CLAIMS
import { createHmac, createPrivateKey, createPublicKey, sign } from 'node:crypto';
import { readFileSync } from 'node:fs';

const [keys, header, claims] = process.argv.slice(2);
const [jwk] = JSON.parse(readFileSync(keys, 'utf8')).keys;
const head = { alg: 'RS256', kid: jwk.kid, ...JSON.parse(header) };
const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
const signed = `${encode(head)}.${encode(JSON.parse(claims))}`;
const key = createPrivateKey({ key: jwk, format: 'jwk' });
const signatures = {
  RS256: () => sign('sha256', Buffer.from(signed), key),
  HS256: () => createHmac('sha256', createPublicKey(key).export({ type: 'spki', format: 'pem' })).update(signed).digest(),
  none: () => Buffer.alloc(0),
};
console.log(`${signed}.${signatures[head.alg]().toString('base64url')}`);
