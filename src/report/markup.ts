/** HTML as text that is safe by its making, and the style of all pages. */

// Markup is what is escaped already. Everything else is escaped where it enters a template, so no string of a run can become markup.
export type Markup = { markup: string };
export type Part = Markup | string | number | undefined | false | Part[];

export function render(part: Part): string {
  if (part === undefined || part === false) return '';
  if (Array.isArray(part)) return part.map(render).join('');
  if (typeof part === 'object') return part.markup;
  return String(part).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}
export function html(strings: TemplateStringsArray, ...parts: Part[]): Markup {
  return { markup: strings.map((text, i) => text + render(parts[i])).join('') };
}

export const STYLE = `
:root{--page:#faf8f5;--card:#fff;--ink:#211d19;--soft:#6f675f;--line:#e6e0d8;--a:#c8501a;--b:#2467b8;--heat:#c8501a;--bad:#b3261e;--d:#2e8b57;--e:#8a4fbf;--f:#b08900;--g:#c2417c;--h:#3a8f9e;--i:#7a5230;--j:#5b6abf}
@media (prefers-color-scheme:dark){:root{--page:#151311;--card:#1e1b18;--ink:#efe9e2;--soft:#a29a91;--line:#36312c;--a:#ff8a4c;--b:#6fb1ff;--heat:#ff8a4c;--bad:#ff7b72;--d:#6fcf97;--e:#c79bff;--f:#e5c04b;--g:#ff8fbf;--h:#6fd3e0;--i:#d0a57a;--j:#9fabff}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;-webkit-text-size-adjust:100%}
main{max-width:60rem;margin:0 auto;padding:clamp(1rem,4vw,3rem) clamp(.9rem,4vw,2rem)}
header{margin-bottom:1.6rem}
.kicker{margin:0 0 .3rem;color:var(--a);font-weight:600;font-size:.85rem;letter-spacing:.02em}
h1{margin:0;font-size:clamp(1.7rem,5vw,2.6rem);line-height:1.12;letter-spacing:-.02em;overflow-wrap:anywhere;text-wrap:balance}
h2{margin:0 0 .35rem;font-size:1.2rem;letter-spacing:-.01em}
.facts{display:flex;flex-wrap:wrap;gap:.3rem .45rem;margin:.9rem 0 0;padding:0;list-style:none;font-size:.85rem}
.facts li{padding:.1rem .6rem;border:1px solid var(--line);border-radius:99px;background:var(--card);overflow-wrap:anywhere}
.remark{margin:1rem 0 0;padding:.6rem .9rem;border-left:3px solid var(--a);background:var(--card);border-radius:0 8px 8px 0;font-size:.9rem}
section{margin:0 0 1.1rem;padding:clamp(1rem,3vw,1.5rem);background:var(--card);border:1px solid var(--line);border-radius:14px}
section>p{margin:0 0 .9rem;color:var(--soft);font-size:.9rem}
.hero{display:grid;grid-template-columns:minmax(0,1.25fr) minmax(0,1fr);gap:clamp(1rem,3vw,2rem);align-items:center}
.hero:not(:has(.final)){grid-template-columns:1fr}
figure{margin:0}
figcaption{margin-top:.4rem;color:var(--soft);font-size:.85rem}
img{display:block;width:100%;height:auto;image-rendering:pixelated;border-radius:6px}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.2rem,1fr));gap:1rem 1.2rem;margin:0}
.figures dt{color:var(--soft);font-size:.85rem}
.figures dd{margin:0;font-size:1.6rem;font-weight:650;line-height:1.2;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.figures small{display:block;color:var(--soft);font-size:.8rem;font-weight:400;letter-spacing:0;min-height:1.2em}
.grids{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(13rem,46%),1fr));gap:1rem}
.keys{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem}
.key::before{content:"";display:inline-block;width:.8em;height:.8em;margin-right:.45em;border-radius:3px;vertical-align:-.06em}
.key.a::before{background:var(--a)}.key.b::before{background:var(--b)}
.key.band::before{background:var(--a);opacity:.2}
.key.heat::before{background:linear-gradient(90deg,color-mix(in oklab,var(--heat) 18%,var(--card)),var(--heat));width:2.2em}
.key.zero::before{border:1.5px solid var(--heat)}
.key.failed::before{content:"×";background:none;color:var(--bad);font-weight:700;height:auto;vertical-align:0}
.key.away::before{background:var(--line);opacity:.6}
svg{display:block;width:100%;height:auto;overflow:visible;font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;font-variant-numeric:tabular-nums}
.narrow{display:none}
.axis line{stroke:var(--line)}.axis text{fill:var(--soft)}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.line.a,.mark.a{stroke:var(--a)}.line.b,.mark.b{stroke:var(--b)}.line.c,.mark.c{stroke:var(--soft)}.line.d,.mark.d{stroke:var(--d)}.dot.d{fill:var(--d)}.key.d::before{background:var(--d)}.line.e,.mark.e{stroke:var(--e)}.dot.e{fill:var(--e)}.key.e::before{background:var(--e)}.line.f,.mark.f{stroke:var(--f)}.dot.f{fill:var(--f)}.key.f::before{background:var(--f)}.line.g,.mark.g{stroke:var(--g)}.dot.g{fill:var(--g)}.key.g::before{background:var(--g)}.line.h,.mark.h{stroke:var(--h)}.dot.h{fill:var(--h)}.key.h::before{background:var(--h)}.line.i,.mark.i{stroke:var(--i)}.dot.i{fill:var(--i)}.key.i::before{background:var(--i)}.line.j,.mark.j{stroke:var(--j)}.dot.j{fill:var(--j)}.key.j::before{background:var(--j)}.key.c::before{background:var(--soft)}
.dot.a,.bar.a,.fill.a{fill:var(--a)}.dot.b,.bar.b{fill:var(--b)}.dot.c,.fill.c{fill:var(--soft)}
.fill{opacity:.14}polygon.band{fill:var(--a);opacity:.13}
.hit rect{fill:transparent}
.hit line,.hit text,.mark{opacity:0;pointer-events:none}
.hit line{stroke:var(--soft);stroke-dasharray:2 3}.hit text{fill:var(--ink)}.mark{fill:var(--card);stroke-width:2}
.hit:hover line,.hit:hover text,.hit:hover .mark{opacity:1}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:1.5rem}
.pair figcaption{margin:0 0 .4rem;color:var(--ink);font-size:.9rem;font-weight:600}
.scroll{overflow-x:auto;max-height:34rem;-webkit-overflow-scrolling:touch}
table{border-collapse:separate;border-spacing:2px;font-size:.8rem;font-variant-numeric:tabular-nums}
th{font-weight:400;color:var(--soft);text-align:left;white-space:nowrap}
tbody th,tfoot th{position:sticky;left:0;z-index:1;max-width:11rem;padding:0 .6rem 0 0;overflow:hidden;text-overflow:ellipsis;background:var(--card)}
.classes{min-width:100%}
.classes td{min-width:3.2em;height:2em;padding:0 .4em;text-align:right;border-radius:4px}
.classes thead th{vertical-align:bottom;text-align:center;padding-bottom:.3rem}
.classes thead span{writing-mode:vertical-rl;transform:rotate(180deg);max-height:9rem;overflow:hidden;text-overflow:ellipsis}
.classes .total{color:var(--soft)}
td.heat{background:color-mix(in oklab,var(--heat) calc(14% + 86%*var(--v)),var(--card))}
td.strong{color:#fff}
@media (prefers-color-scheme:dark){td.strong{color:#1a0d05}}
.none{background:color-mix(in oklab,var(--line) 35%,var(--card))}
.rounds td{min-width:1.3rem;height:1.3rem;padding:0;border-radius:3px;text-align:center;line-height:1}
.rounds thead th{position:relative;height:1.1rem}.rounds thead span{position:absolute;left:50%;transform:translateX(-50%);bottom:0}
.rounds .away{background:color-mix(in oklab,var(--line) 55%,var(--card))}
.rounds .zero{box-shadow:inset 0 0 0 1.5px var(--heat)}
.rounds .failed{color:var(--bad);font-weight:700;background:color-mix(in oklab,var(--bad) 14%,var(--card))}
.events{margin:.4rem 0 0;padding:0;list-style:none;font-size:.9rem}.events li{padding:.25rem 0;border-top:1px solid var(--line);overflow-wrap:anywhere}.events b{margin-right:.4em}
.config{columns:2 20rem;column-gap:2rem;margin:.6rem 0 0;font-size:.85rem}
.config div{display:flex;gap:1rem;justify-content:space-between;padding:.25rem 0;border-bottom:1px solid var(--line);break-inside:avoid}
.config dt{color:var(--soft)}.config dd{margin:0;text-align:right;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
footer{color:var(--soft);font-size:.85rem}
@media (max-width:42rem){.hero,.pair{grid-template-columns:1fr}.wide{display:none}.narrow{display:block}.figures{grid-template-columns:repeat(2,1fr)}}
@media print{body{background:#fff}section{break-inside:avoid}}
.figures-table{min-width:100%;border-spacing:0}.figures-table td,.figures-table th{padding:.35em .7em;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
.figures-table tbody th,.figures-table thead th:first-child,.figures-table .text{text-align:left}.figures-table tbody th{color:var(--ink);font-weight:600}
.figures-table td.text{white-space:normal;min-width:15em}.figures-table .best{font-weight:700;color:var(--a)}.figures-table small{color:var(--soft)}
.figures-table.list{min-width:0;margin:.6rem 0}.list tbody th{max-width:26rem;white-space:normal;overflow-wrap:anywhere}.list td.text{min-width:0;max-width:36rem;overflow-wrap:anywhere}
`;

export type DocumentOptions = {
  /** The Content-Security-Policy. @default nothing is loaded, no script runs */
  policy?: string;
  /** Style behind STYLE. */
  style?: string;
  /** What else the head holds. */
  head?: Markup;
};

/** A page as a complete HTML document, which loads nothing from elsewhere and, unless the policy says otherwise, runs no scripts. */
export function htmlDocument(title: string, main: Markup, { policy, style = '', head }: DocumentOptions = {}): string {
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="${{ markup: policy ?? "default-src 'none'; img-src data:; style-src 'unsafe-inline'" }}">
<title>Phoenix: ${title}</title>
<style>${{ markup: STYLE + style }}</style>
${head}</head>
<body>
<main>
${main}</main>
</body>
</html>
`.markup;
}
