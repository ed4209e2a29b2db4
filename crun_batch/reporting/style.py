"""What every report looks like and how it answers a pointer: one style sheet, one script, no address of anything.

The page forbids itself everything else: its policy names these two texts by their checksums, so that no text of a
run can act as a script or style, and nothing can be fetched.
"""

from __future__ import annotations

import base64
import hashlib

from crun_batch.reporting.markup import Markup, element, join

STYLE = """
:root { color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1b2330; --soft: #5b6676; --line: #dde1e7; --wash: #eef1f5;
  --accent: #2563a8; --ok: #2a8f6a; --invalid: #c98a0a; --truncated: #7a5cc6; --refused: #c2528b; --error: #c8452d;
  --open: #b9c0ca; --c0: #2563a8; --c1: #d9760a; --c2: #2a8f6a; --c3: #b83280; --c4: #6d4fc2; --c5: #0e8ea8;
  --c6: #8a6d1c; --c7: #6b7280; }
@media (prefers-color-scheme: dark) { :root {
  --page: #12161c; --card: #1a2028; --ink: #e4e8ee; --soft: #98a3b3; --line: #303945; --wash: #232b35;
  --accent: #6aa9ec; --ok: #45b58a; --invalid: #e0aa3e; --truncated: #a48cf0; --refused: #e283b4; --error: #ef7257;
  --open: #566070; --c0: #6aa9ec; --c1: #f0a04b; --c2: #45b58a; --c3: #e27ab5; --c4: #a48cf0; --c5: #4cc3da;
  --c6: #cbb25a; --c7: #a1a9b5; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 24px 56px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 40px 0 4px; }
h3 { font-size: 14px; margin: 20px 0 6px; overflow-wrap: anywhere; }
p { margin: 6px 0; }
a { color: var(--accent); }
.head { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 12px; }
.lead { font-size: 17px; margin: 10px 0 0; max-width: 60em; }
.soft, figcaption { color: var(--soft); }
.note { color: var(--soft); margin: 0 0 10px; max-width: 62em; } .card + .note { margin-top: 14px; }
.head + .card { margin-top: 14px; }
.badge { display: inline-block; border-radius: 99px; padding: 1px 10px; font-size: 13px; font-weight: 600;
  border: 1px solid currentColor; white-space: nowrap; }
.is-ok, .is-finished { color: var(--ok); } .is-invalid, .is-simulated { color: var(--invalid); }
.is-truncated { color: var(--truncated); } .is-refused { color: var(--refused); }
.is-error, .is-stopped, .is-killed { color: var(--error); }
.is-open, .is-interrupted { color: var(--soft); } .is-running { color: var(--accent); }
.warning { border-left: 4px solid var(--invalid); background: var(--card); padding: 8px 14px; margin: 14px 0 0;
  border-radius: 0 8px 8px 0; overflow-wrap: anywhere; }
.warning.bad { border-color: var(--error); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; margin: 20px 0 0; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.tile .name { color: var(--soft); font-size: 13px; }
.tile .big { font-size: 24px; font-weight: 650; line-height: 1.25; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere; }
.tile .more { color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
.tile svg { margin-top: 8px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 12px; }
.pair > *, .card + .card { min-width: 0; }
.full { grid-column: 1 / -1; }
.pair > :only-child svg { max-width: 620px; }
.card + .card, .pair + .card, .card + .pair, .pair + .pair { margin-top: 12px; }
.pair > .card + .card { margin-top: 0; }
.card > h3:first-child { margin-top: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr > :last-child { padding-right: 0; }
thead th { color: var(--soft); font-weight: 500; font-size: 13px; vertical-align: bottom; }
tbody th { font-weight: 500; overflow-wrap: break-word;
  min-width: 7em; max-width: 22em; }
tbody tr:last-child > * { border-bottom: 0; }
tr.sum > * { font-weight: 650; border-top: 2px solid var(--line); }
.number { text-align: right; white-space: nowrap; }
.scroll tbody th { position: sticky; left: 0; background: var(--card); }
td.bar { min-width: 56px; vertical-align: middle; } .b1 { width: 60%; } .b2 { width: 36%; } .b3 { width: 22%; }
.b4 { width: 16%; } .b5 { width: 12%; } .b6 { width: 9%; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 7px;
  background: currentColor; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 13px; color: var(--soft); margin: 0 0 6px; }
.legend b { font-weight: 400; } nav.legend { margin: 16px 0 0; font-size: 14px; }
nav.legend a { text-decoration: none; } nav.legend a:hover { text-decoration: underline; }
figure { margin: 0; } figcaption { font-size: 13px; }
svg { display: block; width: 100%; height: auto; overflow: visible; } svg.strip { height: 10px; }
svg text { font-size: 12px; fill: var(--soft); font-variant-numeric: tabular-nums; paint-order: stroke;
  stroke: var(--card); stroke-width: 3px; stroke-linejoin: round; }
svg text.name { fill: var(--ink); } svg text.strong { fill: var(--ink); font-weight: 600; }
.narrow { display: none; }
@media (max-width: 640px) { .wide { display: none; } .narrow { display: block; }
  main { padding: 18px 14px 40px; } h1 { font-size: 22px; } .lead { font-size: 16px; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px; } .tile { padding: 10px 12px; }
  .tile .big { font-size: 19px; } .card { padding: 12px; } }
.grid { stroke: var(--line); } .axis { stroke: var(--soft); }
.f-ok { fill: var(--ok); } .f-invalid { fill: var(--invalid); } .f-truncated { fill: var(--truncated); }
.f-refused { fill: var(--refused); } .f-error { fill: var(--error); } .f-open { fill: var(--open); }
.f-accent { fill: var(--accent); } .f-wash { fill: var(--wash); } .f-soft { fill: var(--soft); }
.f0 { fill: var(--c0); } .f1 { fill: var(--c1); } .f2 { fill: var(--c2); } .f3 { fill: var(--c3); }
.f4 { fill: var(--c4); } .f5 { fill: var(--c5); } .f6 { fill: var(--c6); } .f7 { fill: var(--c7); }
.k-ok { color: var(--ok); } .k-error { color: var(--error); } .k-accent { color: var(--accent); }
.k-invalid { color: var(--invalid); } .k-truncated { color: var(--truncated); }
.k-refused { color: var(--refused); }
.k-open { color: var(--open); } .k-soft { color: var(--soft); }
.k0 { color: var(--c0); } .k1 { color: var(--c1); } .k2 { color: var(--c2); } .k3 { color: var(--c3); }
.k4 { color: var(--c4); } .k5 { color: var(--c5); } .k6 { color: var(--c6); } .k7 { color: var(--c7); }
.line { fill: none; stroke: var(--accent); stroke-width: 1.8; stroke-linejoin: round; }
.line.faint { stroke-width: 1.2; opacity: .55; }
.frontier { fill: none; stroke: var(--soft); stroke-dasharray: 4 4; }
.whisker { stroke: var(--ink); stroke-width: 1.4; opacity: .55; }
.point { stroke: var(--card); stroke-width: 1.5; }
.mark { stroke: var(--ink); stroke-dasharray: 3 3; opacity: .6; }
.pause { fill: var(--wash); }
.hit { fill: transparent; } .hit:hover { fill: var(--ink); fill-opacity: .08; }
[data-tip]:focus { outline: 2px solid var(--accent); outline-offset: 2px; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; max-height: 15em; overflow: auto;
  font: inherit; unicode-bidi: isolate; }
.sample { display: grid; grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); gap: 8px 24px; }
.sample > * { min-width: 0; }
@media (max-width: 640px) { .sample { grid-template-columns: minmax(0, 1fr); } }
.field { color: var(--soft); font-size: 13px; margin-top: 6px; overflow-wrap: anywhere; }
.answer + .answer { border-top: 1px solid var(--line); margin-top: 8px; padding-top: 8px; }
.meta { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 13px; color: var(--soft); align-items: center; }
.meta + p { margin-top: 4px; }
blockquote { margin: 8px 0; padding: 2px 0 2px 12px; border-left: 3px solid var(--line); }
details { margin-top: 8px; } summary { cursor: pointer; color: var(--soft); font-size: 13px; }
code { font: 13px/1.45 ui-monospace, "SF Mono", Menlo, "Liberation Mono", monospace; overflow-wrap: anywhere; }
.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 3px 18px; margin: 0;
  font-size: 14px; }
.facts dt { color: var(--soft); } .facts dd { margin: 0; overflow-wrap: anywhere; }
.run { margin-top: 56px; border-top: 3px solid var(--line); padding-top: 28px; }
#tip { position: fixed; z-index: 9; pointer-events: none; background: var(--ink); color: var(--page);
  font-size: 13px; line-height: 1.4; padding: 6px 10px; border-radius: 7px; max-width: min(360px, 90vw);
  white-space: pre-line;
  overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
@media print { body { background: none; font-size: 12px; } main { max-width: none; padding: 0; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .card, .tile, figure, tr, blockquote { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .pair { grid-template-columns: 1fr 1fr; } .text { max-height: none; }
  #tip { display: none; } .scroll { overflow: visible; } }
"""

SCRIPT = """
(() => {
  const tip = document.getElementById("tip");
  const hide = () => { tip.hidden = true; };
  const show = (mark, x, y) => {
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = x + 14 + box.width > innerWidth ? x - 14 - box.width : x + 14;
    tip.style.left = Math.max(4, left) + "px";
    tip.style.top = Math.max(4, Math.min(y + 14, innerHeight - box.height - 4)) + "px";
  };
  const pointed = (event) => {
    const mark = event.target.closest && event.target.closest("[data-tip]");
    if (mark) show(mark, event.clientX, event.clientY); else hide();
  };
  addEventListener("pointermove", pointed);
  addEventListener("pointerdown", pointed);
  addEventListener("focusin", (event) => {
    if (!event.target.matches("[data-tip]")) return;
    const box = event.target.getBoundingClientRect();
    show(event.target, box.right, box.bottom);
  });
  addEventListener("focusout", hide);
  addEventListener("scroll", hide, { passive: true });
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
})();
"""


def page(title: str, body: Markup) -> str:
    """A whole HTML document that needs nothing but itself."""
    policy = (
        f"default-src 'none'; style-src '{_checksum(STYLE)}'; script-src '{_checksum(SCRIPT)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    tip = Markup('<div id="tip" role="tooltip" hidden></div>')
    content = element("body", element("main", body), tip, element("script", Markup(SCRIPT)))
    return join([Markup("<!doctype html>\n"), element("html", head, "\n", content, lang="en"), "\n"])


def _checksum(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
