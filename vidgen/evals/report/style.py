"""The style sheet of a report's page.

Colors follow the reader's light or dark; the column of text narrows to a phone, where the table of
results gives each metric a line of its own; plots and cards of clips wrap.
"""

from __future__ import annotations

CSS = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #626b75; --line: #dfe3e8;
  --paper: #ffffff; --card: #f6f7f9; --warn: #8a5a00; --warn-paper: #fff6e0; --good: #1d7a46; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ea; --soft: #9aa4ae; --line: #31373e; --paper: #15181b; --card: #1d2125;
    --warn: #f0c36a; --warn-paper: #2d2616; --good: #62c98f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 60rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .8rem; }
h3 { font-size: .95rem; margin: 1.4rem 0 .4rem; }
p { margin: .3rem 0; }
.soft, small { color: var(--soft); }
small { font-size: .82rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; overflow-wrap: break-word;
  font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .5rem .9rem .5rem 0;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
thead th { color: var(--soft); font-size: .85rem; vertical-align: bottom; }
td.value { white-space: nowrap; }
td small, th small { display: block; font-weight: 400; }
tr.apart td { color: var(--warn); }
.best { color: var(--good); font-weight: 700; }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .4em; }
.warnings { margin: 1.2rem 0 0; padding: .7rem 1rem .7rem 2rem; color: var(--warn);
  background: var(--warn-paper); border-radius: .5rem; font-size: .92rem; }
.plots { display: flex; flex-wrap: wrap; gap: .8rem 1rem; }
.plots svg { display: block; max-width: 100%; height: auto; }
.plots svg * { stroke-linejoin: round; stroke-linecap: butt; }
.clips { display: grid; gap: 1rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--room)), 1fr)); }
.clip { background: var(--card); border-radius: .6rem; padding: .7rem; }
.clip p { margin: .5rem .1rem 0; font-size: .95rem; }
.row { display: flex; gap: .5rem; }
figure { margin: 0; }
.row figure { flex: 1 1 0; min-width: 0; max-width: 20rem; }
figcaption { font-size: .78rem; color: var(--soft); margin-top: .2rem; line-height: 1.25; }
video, .row img { display: block; width: 100%; border-radius: .3rem; image-rendering: pixelated; }
details { border-top: 1px solid var(--line); margin-top: 2.4rem; padding-top: .8rem; }
summary { cursor: pointer; font-weight: 600; font-size: 1.15rem; }
details table { font-size: .88rem; }
details td, details th { padding-top: .25rem; padding-bottom: .25rem; }
code { font: .92em ui-monospace, monospace; overflow-wrap: anywhere; }
footer { margin-top: 2.5rem; font-size: .82rem; color: var(--soft); }
@media (max-width: 40rem) {
  body { padding: 1.2rem .9rem 3rem; }
  .results tr { display: flex; flex-wrap: wrap; padding: .5rem 0; gap: 0 .6rem;
    border-bottom: 1px solid var(--line); }
  .results th, .results td { border: 0; padding: .1rem 0; flex: 1 1 0; }
  .results th:first-child { flex: 1 0 100%; }
  .results thead th:first-child { display: none; }
  .results :is(th, td):last-child { flex: 0 0 3.5rem; }
  .results td.value { white-space: normal; }
}
""".strip()
