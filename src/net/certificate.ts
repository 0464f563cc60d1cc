/**
 * A certificate that signs itself (X.509 version 3, ECDSA on P-256), written as DER by hand: sites pin it, so no authority is needed.
 * Format: RFC 5280, section 4.1.
 */
import { generateKeyPairSync, randomBytes, sign } from 'node:crypto';
import { isIP } from 'node:net';

/** An element of DER: tag, length, content. */
function element(tag: number, ...content: Uint8Array[]): Buffer {
  const body = Buffer.concat(content);
  const long: number[] = [];
  for (let rest = body.length; rest > 0; rest = Math.floor(rest / 256)) long.unshift(rest % 256);
  const length = body.length < 128 ? [body.length] : [0x80 | long.length, ...long];
  return Buffer.concat([Buffer.from([tag, ...length]), body]);
}
const sequence = (...content: Uint8Array[]) => element(0x30, ...content);
const text = (tag: number, value: string) => element(tag, Buffer.from(value));
/** An object identifier, from its encoding in hex. */
const identifier = (hex: string) => element(0x06, Buffer.from(hex, 'hex'));
const bits = (value: Uint8Array) => element(0x03, Buffer.from([0]), value);
/** GeneralizedTime to the second, which RFC 5280 asks for from 2050 on and UTCTime before. */
function time(date: Date): Buffer {
  const digits = date.toISOString().replace(/[-:T]|\.\d+/g, '');
  return date.getUTCFullYear() < 2050 ? text(0x17, digits.slice(2)) : text(0x18, digits);
}

const ECDSA_SHA256 = sequence(identifier('2a8648ce3d040302'));
const COMMON_NAME = identifier('550403');

function addressOf(host: string): Buffer {
  if (isIP(host) === 4) return element(0x87, Buffer.from(host.split('.').map(Number)));
  if (isIP(host) !== 6) return text(0x82, host);
  const [head = '', tail = ''] = new URL(`http://[${host}]`).hostname.slice(1, -1).split('::');
  const groups = (part: string) => (part ? part.split(':') : []);
  const zeros = Array.from({ length: 8 - groups(head).length - groups(tail).length }, () => '0');
  return element(0x87, Buffer.from([...groups(head), ...zeros, ...groups(tail)].map((group) => group.padStart(4, '0')).join(''), 'hex'));
}

function extensions(hosts: string[]): Buffer {
  const extension = (hex: string, value: Buffer, critical = false) =>
    sequence(identifier(hex), ...(critical ? [element(0x01, Buffer.from([0xff]))] : []), element(0x04, value));
  return element(
    0xa3,
    sequence(
      // It may sign itself, and nothing below it.
      extension('551d13', sequence(element(0x01, Buffer.from([0xff])), element(0x02, Buffer.from([0]))), true),
      extension('551d11', sequence(...hosts.map(addressOf))),
    ),
  );
}

export type Certificate = { certificate: string; key: string };

/**
 * Makes a key and its certificate, both as PEM.
 * @param hosts names and addresses that it is for; sites do not check them
 * @param years that it is valid for; it began to be so two days ago, since clocks differ
 */
export function makeCertificate(hosts: string[], { years = 20, now = new Date() }: { years?: number; now?: Date } = {}): Certificate {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const name = sequence(element(0x31, sequence(COMMON_NAME, text(0x0c, 'phoenix'))));
  const until = new Date(now);
  until.setUTCFullYear(until.getUTCFullYear() + years);
  const serial = randomBytes(16);
  // Positive, and its first byte not zero.
  serial[0] = (serial[0]! & 0x7f) | 0x40;
  const body = sequence(
    element(0xa0, element(0x02, Buffer.from([2]))),
    element(0x02, serial),
    ECDSA_SHA256,
    name,
    sequence(time(new Date(now.getTime() - 2 * 86_400_000)), time(until)),
    name,
    publicKey.export({ type: 'spki', format: 'der' }),
    extensions(hosts),
  );
  const der = sequence(body, ECDSA_SHA256, bits(sign('sha256', body, privateKey)));
  const lines = der.toString('base64').replace(/.{64}(?!$)/g, '$&\n');
  return {
    certificate: `-----BEGIN CERTIFICATE-----\n${lines}\n-----END CERTIFICATE-----\n`,
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }) as string,
  };
}
