/** The coordinator's page in a real browser: what is shown is what the view says, updates arrive, and nothing hostile runs. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import sharp from 'sharp';
import { type Page, startPage } from '../../src/net/page/server.ts';
import { type FederationView, siteStates } from '../../src/net/page/view.ts';
import { type Browser, findBrowser, startBrowser, type Tab } from '../support/browser.ts';
import { busyView, manySites, NOW, viewAt } from '../support/federation-view.ts';

const path = findBrowser();
let browser: Browser;

if (path) {
  test.before(async () => {
    browser = await startBrowser(path);
  });
  test.after.always(() => browser?.close());
} else {
  test('the page in a browser', (t) => {
    t.log('SKIPPED: no Chromium on this machine (Debian, Ubuntu: apt-get install chromium)');
    t.pass();
  });
}

type Shown = { tab: Tab; page: Page; show(view: FederationView): Promise<void> };

/** A test of the page in a tab of its own. `show` resolves when the browser has got what it was told. */
function inBrowser(name: string, body: (t: ExecutionContext, shown: Shown) => Promise<void>, first: FederationView = busyView()): void {
  if (!path) return;
  test(name, async (t) => {
    let view = first;
    const png = await sharp({ create: { width: 64, height: 64, channels: 3, background: '#808080' } })
      .png()
      .toBuffer();
    const page = await startPage({ view: () => view, samples: () => png, port: 0 });
    t.teardown(() => page.close());
    const tab = await browser.open();
    await tab.resize(1440, 900);
    await tab.goto(page.url);
    await tab.until('document.body.dataset.updates === "1"');
    const show = async (next: FederationView) => {
      const updates = await tab.evaluate<string>('document.body.dataset.updates');
      view = next;
      page.changed();
      await tab.until(`document.body.dataset.updates !== ${JSON.stringify(updates)}`);
    };
    await body(t, { tab, page, show });
    t.deepEqual(tab.complaints, []);
  });
}

const textOf = (tab: Tab, selector: string) => tab.evaluate<string>(`document.querySelector(${JSON.stringify(selector)}).innerText`);
const rowsOf = (tab: Tab) =>
  tab.evaluate<string[]>('[...document.querySelectorAll("#rows tr")].map((row) => row.querySelector("th").firstChild.data)');

inBrowser('it shows the view: round, what is waited for, a row a site, and all parts', async (t, { tab }) => {
  t.is(await textOf(tab, 'h1'), 'lung');
  t.regex(
    await textOf(tab, '#headline'),
    /Round 12 of 50: waiting for the reports of hospital-a and hospital-b; the round ends at the latest in/,
  );
  t.deepEqual(await rowsOf(tab), ['hospital-a', 'hospital-b', 'clinic-süd', 'institute-d', 'practice-e']);
  t.regex(
    await textOf(tab, '#rows tr:nth-child(3)'),
    /refused[\s\S]*Refused in round 12: This site refuses train[\s\S]*Ask its administrator/,
  );
  t.deepEqual(await tab.evaluate('[...document.querySelectorAll("section:not([hidden]) h2")].map((heading) => heading.textContent)'), [
    'Figures',
    'Sites',
    'Loss',
    'Newest samples',
    'Filter',
    'Bytes',
    'Weights',
    'Events',
  ]);
  t.is(await tab.evaluate('document.querySelector("#samples img").complete && document.querySelector("#samples img").naturalWidth'), 64);
  t.true(await tab.evaluate('document.querySelectorAll("#curves svg polyline").length === 4'));
  t.is(
    await tab.evaluate('getComputedStyle(document.querySelector(".badge.bad")).borderRadius'),
    '99px',
    'the style is let in by its hash',
  );
});

inBrowser('an update reaches the page, and changes only what has changed', async (t, { tab, show }) => {
  await tab.evaluate('document.querySelector("#rows tr:nth-child(2)").firstChild.mark = 1');
  const view = busyView();
  await show({ ...view, round: 13, sites: view.sites.map((site, i) => (i === 0 ? { ...site, state: 'uploading' } : site)) });
  t.regex(await textOf(tab, '#headline'), /Round 13 of 50/);
  t.is(await tab.evaluate('document.title'), 'Phoenix: lung: round 13 of 50');
  t.is(await textOf(tab, '#rows tr:first-child .badge'), 'uploading');
  t.is(await tab.evaluate('document.querySelector("#rows tr:nth-child(2)").firstChild.mark'), 1, 'other rows are left as they are');
  await show({ ...view, run: 'second', federation: 'lungs' });
  t.is(await textOf(tab, 'h1'), 'lungs');
  t.regex(await textOf(tab, '#facts'), /run second/);
  await show({ ...view, samples: undefined, decisions: [] });
  t.true(await tab.evaluate('document.querySelector("#samples").hidden && document.querySelector("#decisions").hidden'));
  await show(view);
  t.false(await tab.evaluate('document.querySelector("#samples").hidden'));
});

inBrowser('sites come, go and change places', async (t, { tab, show }) => {
  const view = busyView();
  const [a, b, c, d, e] = view.sites;
  for (const sites of [[e!, a!], [a!, b!, c!, d!, e!], [], [d!, c!, { ...a!, id: 'new' }]]) {
    await show({ ...view, sites });
    t.deepEqual(
      await rowsOf(tab),
      sites.map(({ id }) => id),
    );
  }
});

inBrowser('text of sites stays text', async (t, { tab, show }) => {
  const evil = '<img src=x onerror="document.title=1"><script>document.title=2</script>';
  const view = busyView();
  const site = { ...view.sites[2]!, id: '<b>x"', version: evil, trouble: { kind: 'failure' as const, text: evil, advice: evil } };
  await show({
    ...view,
    federation: 'lung',
    run: evil,
    serverWork: evil,
    sites: [site],
    events: [{ time: NOW, level: 'error', text: evil }],
  });
  t.deepEqual(await rowsOf(tab), ['<b>x"']);
  t.true((await textOf(tab, '#events')).includes(evil));
  t.true((await textOf(tab, '#headline')).includes(evil));
  t.is(await tab.evaluate('document.querySelectorAll("main script, main img:not(#samples img)").length'), 0);
  t.is(await tab.evaluate('document.title'), 'Phoenix: lung: round 12 of 50');
});

if (path)
  test('a script that got in all the same would not run', async (t) => {
    const page = await startPage({ view: busyView, port: 0 });
    t.teardown(() => page.close());
    const tab = await browser.open();
    await tab.goto(page.url);
    await tab.evaluate(`new Promise((resolve) => {
      document.addEventListener('securitypolicyviolation', resolve, { once: true });
      document.body.insertAdjacentHTML('beforeend', '<img src="data:," onerror="window.ran = true">');
    })`);
    t.is(await tab.evaluate('typeof window.ran'), 'undefined');
    await t.throwsAsync(tab.evaluate('fetch("https://elsewhere.example/")'), { message: /Failed to fetch|Refused/ });
  });

inBrowser('when the coordinator is gone the page says so', async (t, { tab, page }) => {
  t.true(await tab.evaluate('document.querySelector("#away").hidden'));
  await page.close();
  await tab.until('!document.querySelector("#away").hidden');
  t.regex(await textOf(tab, '#away'), /No connection to the coordinator/);
  tab.complaints.length = 0;
});

inBrowser('a token in the address becomes a cookie, and the stream is read with it', async (t) => {
  const page = await startPage({ view: busyView, port: 0, token: 'a-token-for-this-test' });
  t.teardown(() => page.close());
  const tab = await browser.open();
  await tab.goto(page.url);
  t.regex(await textOf(tab, 'body'), /needs its token/);
  await tab.goto(`${page.url}?token=a-token-for-this-test`);
  await tab.until('document.body.dataset.updates');
  t.is(await tab.evaluate('location.href'), page.url, 'the token is not left in the address');
  t.is(await tab.evaluate('document.cookie'), '', 'no script reads it');
  t.is((await rowsOf(tab)).length, 5);
});

inBrowser('tables are tables to those who do not see them, wide and narrow', async (t, { tab }) => {
  for (const width of [1440, 390]) {
    await tab.resize(width, 800);
    const bad = await tab.evaluate(`[
      ...[...document.querySelectorAll('table')].filter((table) => !table.caption?.textContent).map(() => 'table without caption'),
      ...[...document.querySelectorAll('thead th')].filter((cell) => cell.scope !== 'col').map((cell) => cell.outerHTML),
      ...[...document.querySelectorAll('tbody th')].filter((cell) => cell.scope !== 'row').map((cell) => cell.outerHTML),
      ...[...document.querySelectorAll('img')].filter((img) => !img.alt).map((img) => img.outerHTML),
      ...[...document.querySelectorAll('progress')].filter((bar) => !bar.ariaLabel).map((bar) => bar.outerHTML),
      ...[...document.querySelectorAll('.sites tr')].filter((row) => row.getAttribute('role') !== 'row' || row.children.length !== 11).map((row) => row.outerHTML),
    ]`);
    t.deepEqual(bad, []);
    t.is(await tab.evaluate('document.querySelector("#headline").ariaLive'), 'polite');
    t.is(await tab.evaluate('document.querySelectorAll("h1").length'), 1);
  }
});

/** The least contrast of texts with what lies behind them, as the guidelines for accessible pages compute it. */
const CONTRAST = `(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d');
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  let worst = { ratio: 99, text: '' };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !element.checkVisibility() || element.closest('svg, noscript')) continue;
    const pair = [light(rgb(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < worst.ratio) worst = { ratio, text: node.data };
  }
  return worst;
})()`;

inBrowser('texts stand out from what lies behind them, light and dark', async (t, { tab }) => {
  for (const dark of [false, true]) {
    await tab.resize(1440, 900, { dark });
    const { ratio, text } = await tab.evaluate<{ ratio: number; text: string }>(CONTRAST);
    t.true(ratio >= 4.5, `${dark ? 'dark' : 'light'}: ${ratio.toFixed(2)} of ${JSON.stringify(text)}`);
  }
});

inBrowser('it fits on wide and narrow screens: nothing lies outside of the window', async (t, { tab, show }) => {
  for (const view of [manySites(200), busyView(), busyView({ federation: 'a-very-long-name'.repeat(20), run: 'x'.repeat(300) })]) {
    await show(view);
    for (const [width, height] of [
      [1440, 900],
      [1024, 768],
      [820, 1180],
      [390, 844],
      [320, 568],
    ] as const) {
      await tab.resize(width, height);
      t.true((await tab.evaluate<number>('document.documentElement.scrollWidth')) <= width, `${width} of ${view.sites.length} sites`);
    }
  }
});

inBrowser(
  '200 sites: all rows are there, and one that changes is one that is changed',
  async (t, { tab, show }) => {
    t.is((await rowsOf(tab)).length, 200);
    const view = manySites(200);
    await tab.evaluate('for (const row of document.querySelectorAll("#rows tr")) row.firstChild.mark = 1');
    await show({ ...view, sites: view.sites.map((site, i) => (i === 150 ? { ...site, loss: 0.777 } : site)) });
    t.is(await tab.evaluate('[...document.querySelectorAll("#rows tr")].filter((row) => !row.firstChild.mark).length'), 1);
    t.regex(await textOf(tab, '#rows tr:nth-child(151)'), /0\.777/);
  },
  manySites(200),
);

const shots = process.env.PHOENIX_SCREENSHOTS;
if (shots)
  inBrowser('screenshots, into the folder PHOENIX_SCREENSHOTS', async (t, { tab, show }) => {
    await show(viewAt(busyView(), Date.now()));
    for (const [name, width, dark] of [
      ['wide', 1440, false],
      ['tablet-dark', 1024, true],
      ['phone', 390, false],
    ] as const) {
      await tab.resize(width, 900, { dark });
      await writeFile(join(shots, `page-${name}.png`), await tab.screenshot());
    }
    t.pass();
  });

inBrowser('every state has its words', async (t, { tab, show }) => {
  const view = busyView();
  const states = Object.keys(siteStates) as (keyof typeof siteStates)[];
  await show({ ...view, sites: states.map((state) => ({ ...view.sites[0]!, id: state, state })) });
  t.deepEqual(
    await tab.evaluate('[...document.querySelectorAll("#rows .badge")].map((badge) => badge.textContent)'),
    Object.values(siteStates),
  );
});
