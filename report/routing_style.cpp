// The routing page's style and its small script. Colours are named once and change with the
// reader's light or dark setting; print keeps the light ones. The script only adds tips over maps
// and a filter by expert: without it the page loses nothing else.
#include "report/routing_parts.h"

namespace pyramoe::report {

const char* const kRoutingStyle = R"css(
:root{color-scheme:light;--ink:#1c2128;--quiet:#5b6470;--paper:#fff;--panel:#f5f6f8;--line:#dde1e6;
--accent:#b4540a;--strong:50%}
@media screen and (prefers-color-scheme:dark){:root{color-scheme:dark;--ink:#e4e7eb;--quiet:#98a1ad;
--paper:#13161a;--panel:#1b1f25;--line:#313840;--accent:#f0913e;--strong:45%}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","DejaVu Sans",sans-serif}
main{max-width:1120px;margin:0 auto;padding:2rem clamp(1rem,4vw,2.5rem) 3rem}
h1{font-size:2rem;line-height:1.15;margin:.1em 0 .3em;overflow-wrap:anywhere}
h2{font-size:1.35rem;margin:0 0 .2em}h3{font-size:1rem;margin:0 0 .3em}
section{margin-top:3rem;padding-top:1.5rem;border-top:1px solid var(--line)}
code{font-family:ui-monospace,"DejaVu Sans Mono",Consolas,monospace;font-size:.88em}
.over{margin:0;color:var(--accent);font-size:.85rem;letter-spacing:.04em}
.facts,.note,.lede,.legend,.keys,footer{color:var(--quiet)}
.facts{margin:0;max-width:75ch}.lede{margin:0 0 1rem;max-width:70ch}
.note{font-size:.85rem;margin:.35rem 0 0;max-width:80ch}
small{font-weight:400;color:var(--quiet);font-size:.85em}
.missing{margin-top:1.2rem;padding:.7rem 1rem;border-left:4px solid var(--accent);
background:var(--panel);overflow-wrap:anywhere}
.missing p{margin:.2em 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:1rem;margin-top:1.5rem}
.tile{background:var(--panel);border-radius:8px;padding:.8rem 1rem}
.tile b{display:block;font-size:1.7rem;line-height:1.2;font-variant-numeric:tabular-nums}
.tile span{font-weight:600}.tile p{margin:.2em 0 0;font-size:.85rem;color:var(--quiet);line-height:1.35}
figure{margin:0 0 1.6rem;break-inside:avoid}figcaption{font-weight:600;margin-bottom:.35rem}
.legend{display:grid;grid-template-columns:1fr auto 1fr;width:min(100%,380px);font-size:.8rem;
margin:0 0 1.4rem}
.legend span:last-child{text-align:right}
.scale{grid-column:1/-1;height:12px;margin-bottom:.2rem;border:1px solid var(--line);
background:linear-gradient(90deg,rgb(38 104 214),transparent 50%,rgb(226 106 0))}
.cells{display:flex}.rows{position:relative;flex:0 0 var(--gutter)}
.rows span,.columns span{position:absolute;font-size:.75rem;color:var(--quiet);line-height:1;
white-space:nowrap}
.rows span{right:.6em;transform:translateY(-50%)}
.cells img{flex:1;min-width:0;width:0;image-rendering:pixelated;border:1px solid var(--line);
background:var(--paper)}
.columns{position:relative;height:1.2rem;margin-left:var(--gutter)}
.columns span{top:.3rem;transform:translateX(-50%)}
.map.wide .note{text-align:right;margin-top:0;max-width:none}
.map.wide .columns span:first-child{transform:none}
.many{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:0 2.5rem}
.maps{display:flex;flex-wrap:wrap;gap:0 2.5rem}.maps .map{width:max(var(--width),17rem);max-width:100%}
.maps .cells{max-width:var(--width)}.maps .columns{max-width:calc(var(--width) - var(--gutter))}
.keys{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;margin:0 0 1rem;font-size:.9rem}
.keys i{display:inline-block;width:1.3em;height:3px;background:var(--c);vertical-align:.25em;
margin-right:.4em}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:0 2.5rem}
.chart svg{display:block;width:100%;max-width:560px;height:auto}
.chart text{font-size:10.5px;fill:var(--quiet)}
.grid{stroke:var(--line)}
.line polyline{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round}
.line circle{fill:var(--c)}
.nothing{background:var(--panel);border-radius:8px;padding:2.5rem 1.5rem;text-align:center;
color:var(--quiet);max-width:560px}
input[type=radio]{position:absolute;opacity:0;pointer-events:none}
.switch{display:flex;flex-wrap:wrap;gap:.4rem;align-items:center;margin:0 0 .6rem}
.switch label{padding:.15rem .7rem;border:1px solid var(--line);border-radius:99px;cursor:pointer;
font-size:.9rem}
.readers{margin:1rem 0 1.5rem}
.readers .list{display:none;grid-template-columns:repeat(auto-fill,minmax(230px,1fr));gap:.6rem}
.reader{border-left:5px solid hsl(var(--a) 75% var(--strong));background:var(--panel);
padding:.45rem .7rem;border-radius:0 6px 6px 0;cursor:pointer}
.reader b{margin-right:.5em}.reader p{margin:.2rem 0 0;line-height:1.7}
.reader code{background:hsl(var(--a) 75% 50%/.22);border-radius:3px;padding:.05em .3em;
white-space:nowrap}
.reader.chosen{outline:2px solid var(--ink)}.none{color:var(--quiet);font-size:.85rem}
.texts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:1.5rem 2.5rem}
.text{margin:0;font:.9rem/1.75 ui-monospace,"DejaVu Sans Mono",Consolas,monospace;white-space:pre-wrap;
overflow-wrap:anywhere}
.text i{font-style:normal;border-radius:2px;padding:.1em 0;
background:hsl(var(--a) 80% 50%/calc(.05 + .5*var(--p)))}
.text i.dim{background:none;opacity:.35}
.text hr{border:0;border-top:1px dashed var(--line);margin:.6rem 0}
footer{margin-top:3rem;padding-top:1.5rem;border-top:1px solid var(--line);font-size:.85rem}
footer h2{font-size:1rem}footer p{max-width:80ch;margin:.4em 0}
#tip{position:fixed;z-index:9;pointer-events:none;background:var(--ink);color:var(--paper);
font-size:.8rem;line-height:1.35;padding:.3rem .55rem;border-radius:5px;display:none;max-width:60vw}
@media print{body{font-size:10.5pt}.charts{grid-template-columns:1fr 1fr}
h2,.lede,.legend,.keys{break-after:avoid}
main{max-width:none;padding:0}section{margin-top:1.2rem}
.text,.reader,.scale,.tile,.keys i,.reader code,.text i{print-color-adjust:exact;
-webkit-print-color-adjust:exact}article{break-inside:avoid}}
)css";

const char* const kRoutingScript = R"js(
(() => {
  const tip = document.createElement('div');
  tip.id = 'tip';
  document.body.append(tip);
  const hide = () => { tip.style.display = 'none'; };
  for (const map of document.querySelectorAll('.cells img')) {
    const rows = map.dataset.rows.split('|'), columns = map.dataset.columns.split('|');
    const values = map.dataset.values.split(',');
    map.addEventListener('pointermove', (event) => {
      const box = map.getBoundingClientRect();
      const cell = (at, begin, size, count) =>
        Math.min(count - 1, Math.max(0, Math.floor((at - begin) / size * count)));
      const r = cell(event.clientY, box.top, box.height, rows.length);
      const c = cell(event.clientX, box.left, box.width, columns.length);
      const value = values[r * columns.length + c];
      tip.textContent = rows[r] + ' · ' + columns[c] + ': ' +
        (value === '' ? 'nothing known' : (value / 100).toFixed(2) + ' ' + map.dataset.unit);
      tip.style.display = 'block';
      const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
      tip.style.left = Math.max(4, left) + 'px';
      tip.style.top = Math.max(4, event.clientY - tip.offsetHeight - 10) + 'px';
    });
    map.addEventListener('pointerleave', hide);
  }
  addEventListener('scroll', hide, {passive: true});

  // One expert's tokens: again, or another layer, shows all.
  const readers = [...document.querySelectorAll('.reader')];
  const tokens = [...document.querySelectorAll('.text i')];
  const choose = (reader) => {
    const chosen = reader && !reader.classList.contains('chosen') ? reader : null;
    for (const other of readers) other.classList.toggle('chosen', other === chosen);
    for (const token of tokens) {
      const mine = !chosen ||
        token.dataset.e.split(' ')[chosen.dataset.layer] === chosen.dataset.expert;
      token.classList.toggle('dim', !mine);
    }
  };
  for (const reader of readers) {
    reader.tabIndex = 0;
    reader.addEventListener('click', () => choose(reader));
    reader.addEventListener('keydown', (event) => { if (event.key === 'Enter') choose(reader); });
  }
  for (const button of document.querySelectorAll('input[name=layer]')) {
    button.addEventListener('change', () => choose(null));
  }
})();
)js";

}  // namespace pyramoe::report
