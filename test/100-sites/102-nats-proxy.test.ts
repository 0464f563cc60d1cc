/** The wire over NATS holds the contract: WebSocket with TLS, through an HTTP proxy that the environment names. */
import test from 'ava';
import { proxyFor } from '../../src/net/wires/dial.ts';
import { wireContract } from '../contracts/wire.ts';
import { connectProxy, natsRig, noServer } from '../support/nats.ts';

if (noServer) test.skip('tests with a real server', () => {});
else {
  let proxy: Awaited<ReturnType<typeof connectProxy>>;
  wireContract('NATS over WebSocket', async () => {
    proxy = await connectProxy();
    process.env.HTTPS_PROXY = proxy.url;
    return natsRig('wss');
  });
  test.serial('all of it went through the proxy', (t) => {
    t.true(proxy.asked.length > 20);
    t.true(proxy.asked.every((target) => target.startsWith('127.0.0.1:')));
  });
  test.after.always(() => proxy?.close());
}

test('which hosts go through a proxy', (t) => {
  const env = { HTTPS_PROXY: 'proxy:3128', NO_PROXY: 'localhost, .inside.org,example.com' };
  t.is(proxyFor('fed.example.org', env), 'http://proxy:3128');
  t.is(proxyFor('fed.inside.org', env), undefined);
  t.is(proxyFor('a.example.com', env), undefined);
  t.is(proxyFor('notexample.com', env), 'http://proxy:3128');
  t.is(proxyFor('localhost', env), undefined);
  t.is(proxyFor('fed.example.org', { ...env, NO_PROXY: '*' }), undefined);
  t.is(proxyFor('fed.example.org', { https_proxy: 'https://user:pw@proxy' }), 'https://user:pw@proxy');
  t.is(proxyFor('fed.example.org', {}), undefined);
});
