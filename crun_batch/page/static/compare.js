// Variants side by side: who is best, who differs, what a right row costs, how far a confidence can be believed.

import { asked, change, put } from "./address.js";
import { ask } from "./api.js";
import { about, byId, element, number, seconds } from "./dom.js";

export async function showCompare(changed) {
  const found = await ask("compare", asked());
  const focused = document.activeElement?.closest("#compare select")?.name;
  byId("compare").replaceChildren(choices(found, changed), ...[leaderboard(found), pairs(found), consensus(found),
    ...confusions(found), ...calibrations(found), served(found)].filter(Boolean));
  if (focused) byId("compare").querySelector(`select[name=${focused}]`)?.focus();
}

const percent = (value) => `${(100 * value).toFixed(1)} %`;
const rate = (one) => (one === null ? "–" : `${percent(one.value)} (${(100 * one.low).toFixed(1)} to ${(100 * one.high).toFixed(1)})`);
const p = (value) => (value < 0.001 ? "< 0.001" : value.toFixed(3));
const signed = (value) => `${value > 0 ? "+" : ""}${(100 * value).toFixed(1)}`;
const points = (one) => `${signed(one.value)} points (${signed(one.low)} to ${signed(one.high)})`;

function choices(found, changed) {
  const chosen = (name, label, values, none) => {
    const select = element("select", { name, onchange: (event) => { if (change((to) => put(to, name, event.target.value), { push: true })) changed(); } },
      none === null ? null : element("option", { value: "" }, none), values.map((value) => element("option", { value }, value)));
    select.value = asked().get(name) ?? "";
    return element("label", {}, label, " ", select);
  };
  return element("div", { class: "line" },
    found.scores.length > 1 ? chosen("by", "by score", found.scores, found.score) : null,
    chosen("baseline", "baseline", found.variants_known, "the first"),
    chosen("gold", "right labels", found.columns, "none"));
}

function card(title, ...children) {
  return element("section", { class: "card" }, element("h2", {}, title), ...children);
}

// cells: texts or nodes; the first of each row names it.
function table(headers, rows) {
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": headers[0] }, element("table", {},
    element("thead", {}, element("tr", {}, headers.map((name) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, rows.map((row) => element("tr", {}, row.map((cell, place) => (place === 0
      ? element("th", { scope: "row" }, cell) : element("td", {}, cell ?? "–"))))))));
}

function leaderboard(found) {
  const value = (one) => (one.score === null ? -1 : one.score.value);
  const variants = [...found.variants].sort((one, other) => value(other) - value(one));
  const unit = variants.some((one) => one.cost_usd.total !== null) ? "cost_usd" : "cost_credits";
  const amount = (text) => (text === null ? "unknown" : unit === "cost_usd" ? about(text, null) : about(null, text));
  const answer = variants.some((one) => one.replies > one.rows) ? "reply" : "row";  // what one request for it cost
  const rows = variants.map((one) => [one.name, one.score === null ? "–" : element("span", {}, interval(one.score), " ", rate(one.score)),
    one.name === found.baseline ? "baseline" : one.to_baseline === null ? "no common rows"
      : `${points(one.to_baseline.difference)}, p ${p(one.to_baseline.p_adjusted)}`,
    number(one.rows), percent(one.errors.value), amount(one[unit].per_row),
    one.score === null ? "–" : amount(one[unit].per_correct_row), seconds(one.latency_p50_seconds), seconds(one.latency_p95_seconds)]);
  const choice = found.choice.variant === null ? `no variant is named: ${found.choice.reason}` : `take ${found.choice.variant}: ${found.choice.reason}`;
  return card(found.score === null ? "Variants" : `By score ${found.score}`,
    table(["variant", "score (95 %)", "against the baseline", "rows", "errors", `a ${answer}`, `a correct ${answer}`, "median", "95 %"], rows),
    element("p", {}, choice), element("p", { class: "note" }, "p by Holm's correction over the comparisons with the baseline"));
}

const shape = (name, attributes, ...children) => {
  const made = document.createElementNS(byId("shapes").namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

// A line from low to high with a point at the value, on 0 to 1.
function interval(one) {
  const x = (value) => 2 + 116 * value;
  return shape("svg", { viewBox: "0 0 120 14", width: 120, height: 14, role: "img", "aria-label": rate(one), class: "interval" },
    shape("line", { x1: 2, x2: 118, y1: 7, y2: 7, class: "axis" }),
    shape("line", { x1: x(one.low), x2: x(one.high), y1: 7, y2: 7, class: "whisker" }),
    shape("circle", { cx: x(one.value), cy: 7, r: 4, class: "point" }));
}

function pairs(found) {
  if (found.variants.length < 3 || !found.pairs.length) return null;
  const rows = [...found.pairs].sort((one, other) => one.p_adjusted - other.p_adjusted).map((one) => [one.first, one.second,
    points(one.difference), p(one.p_adjusted), number(one.difference.rows), one.p_adjusted < 0.05 ? "differ" : "no difference shown"]);
  return card("All pairs", table(["variant", "against", "difference", "p", "rows", ""], rows),
    element("p", { class: "note" }, `p by Holm's correction over all ${rows.length} pairs`));
}

function consensus(found) {
  const one = found.consensus;
  if (one === null) return null;
  return card("Consensus", element("p", {}, `One vote for each variant: ${number(one.decided)} of ${number(one.rows)} rows have one label with most votes, `
    + `${number(one.unanimous)} have it from all. Two variants agree on ${rate(one.agreement)}.`),
  table(["variant", "agrees with the others"], Object.entries(one.variants).map(([name, agrees]) => [name, rate(agrees)])));
}

function confusions(found) {
  return Object.entries(found.gold ?? {}).map(([variant, figures]) => card(`${variant} against ${found.gold_column}`,
    element("p", {}, `${rate(figures.accuracy)} of replies right; macro precision ${percent(figures.macro_precision)}, recall ${percent(figures.macro_recall)}, F1 ${percent(figures.macro_f1)}`),
    figures.confusion === null ? element("p", { class: "note" }, `${figures.classes.length} classes: compare --json has the matrix`)
      : confusion(found, variant, figures)));
}

// Replies by right label and given label; a cell opens its rows.
function confusion(found, variant, figures) {
  const labels = figures.classes.map((one) => one.label);
  const most = Math.max(1, ...figures.confusion.flat());
  const rows = labels.map((gold, i) => [gold, ...labels.map((label, j) => cell(found, variant, gold, label, figures.confusion[i][j], most, i === j)),
    cell(found, variant, gold, null, figures.unlabelled[i], most, false)]);
  return table(["right \\ given, in replies", ...labels, "no label"], rows);
}

function cell(found, variant, gold, label, count, most, isRight) {
  if (!count) return element("span", { class: "null" }, "0");
  const to = new URLSearchParams();
  if (asked().get("run")) to.set("run", asked().get("run"));
  to.set("variant", variant);
  const quoted = (text) => `'${text.replaceAll("'", "''")}'`;
  const given = label === null ? `(${found.label}) is null` : `(${found.label})::varchar = ${quoted(label)}`;
  if (found.is_gold_of_people) to.set("people", gold);
  to.set("where", found.is_gold_of_people ? given : `"${found.gold_column.replaceAll('"', '""')}"::varchar = ${quoted(gold)} and ${given}`);
  return element("a", { href: `?${to}`, class: `heat ${isRight ? "right" : "wrong"} h${Math.ceil((4 * count) / most)}` }, number(count));
}

function calibrations(found) {
  return Object.entries(found.calibration ?? {}).map(([variant, one]) => {
    const error = `expected calibration error ${one.error.toFixed(3)}${one.error_low === null ? "" : ` (${one.error_low.toFixed(3)} to ${one.error_high.toFixed(3)})`}`;
    return card(`Confidence of ${variant}`, element("p", {}, `${number(one.answers)} answers with a confidence; ${error}`),
      element("div", { class: "answers" }, reliability(one),
        table(["from confidence", "kept", "right"], one.coverage.map((line) => [String(line.threshold), `${percent(line.share)} (${number(line.answers)})`, rate(line.right)]))));
  });
}

// How often answers are right against how sure they are: on the diagonal where a confidence can be believed.
function reliability(one) {
  const x = (value) => 36 + 240 * value;
  const y = (value) => 250 - 240 * value;
  const told = one.bins.map((bin) => `${bin.confidence.toFixed(2)} sure, ${percent(bin.right.value)} right (${number(bin.answers)})`).join("; ");
  const text = (words, attributes) => { const made = shape("text", attributes); made.textContent = words; return made; };
  return shape("svg", { viewBox: "0 0 290 286", role: "img", "aria-label": `reliability: ${told}`, class: "reliability" },
    shape("rect", { x: 36, y: 10, width: 240, height: 240, class: "frame" }),
    shape("line", { x1: x(0), y1: y(0), x2: x(1), y2: y(1), class: "axis" }),
    ...[0, 0.5, 1].flatMap((value) => [text(value, { x: x(value), y: 266, "text-anchor": "middle" }), text(value, { x: 30, y: y(value) + 4, "text-anchor": "end" })]),
    text("confidence", { x: 156, y: 282, "text-anchor": "middle" }), text("right", { x: 42, y: 24 }),
    ...one.bins.flatMap((bin) => [
      shape("line", { x1: x(bin.confidence), x2: x(bin.confidence), y1: y(bin.right.low), y2: y(bin.right.high), class: "whisker" }),
      shape("circle", { cx: x(bin.confidence), cy: y(bin.right.value), r: 3 + 5 * Math.sqrt(bin.answers / one.answers), class: "point" })]));
}

function served(found) {
  if (!found.served.length) return null;
  return card("More than one model answered", table(["variant", "model", "replies", "first", "last"],
    found.served.map((one) => [one.variant, one.model, number(one.replies), one.first ?? "–", one.last ?? "–"])));
}
