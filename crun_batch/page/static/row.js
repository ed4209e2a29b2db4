// One row: what was asked, each attempt, and the answers of all variants side by side, differences marked.

import { annotateForm } from "./annotate.js";
import { badge, byId, counted, element, moment, money, number, seconds, show } from "./dom.js";
import { marked } from "./differences.js";

export function showRow(document_, actions) {
  const panel = byId("row");
  const parts = [
    element("header", {},
      element("h2", {}, `row ${document_.id}`),
      element("button", { type: "button", onclick: actions.before }, "before"),
      element("button", { type: "button", onclick: actions.after }, "after"),
      element("button", { type: "button", class: "close", onclick: actions.close }, "close")),
    document_.table ? element("p", { class: "note" }, document_.table) : null,
    document_.units.length ? null : element("p", {}, "nothing is recorded of this row yet: it was not sent, or no reply has come"),
    element("div", { class: "answers" }, answers(document_, actions)),
    ...prompts(document_.units),
    ...document_.units.map(attempts),
  ].filter(Boolean);
  panel.replaceChildren(...parts);
  show(panel, true);
  document.body.classList.add("has-row");
  panel.scrollTop = 0;
}

export function hideRow() {
  show(byId("row"), false);
  byId("row").replaceChildren();
  delete byId("row").dataset.id;
  document.body.classList.remove("has-row");
}

const title = (unit, units) => (units.some((one) => one.repeat > 0) ? `${unit.variant}, repeat ${unit.repeat}` : unit.variant);

function answerOf(unit) {
  if (unit.outputs) return unit.outputs.join("\n\n");
  if (unit.output !== null && unit.output !== undefined) return JSON.stringify(unit.output, null, 1);
  return unit.output_text ?? unit.tool_calls ?? null;
}

function answers(document_, actions) {
  const units = document_.units;
  const first = units.map(answerOf).find((text) => text !== null) ?? null;
  return units.map((unit) => {
    const text = answerOf(unit);
    const others = units.map(answerOf).filter((one) => one !== null && one !== text);
    const shown = text === null ? element("p", { class: "null" }, unit.error_message ?? "no answer")
      : element("pre", { class: "text answer" }, text === first ? againstAll(text, others) : parts(marked(text, first)));
    return element("section", { class: "unit" },
      element("h3", {}, title(unit, units), " ", badge(unit.status)), shown,
      unit.status === "open" ? null : annotateForm(unit, document_, actions.saved), facts(unit));
  });
}

function parts(words) {
  const joined = [];
  for (const { word, differs } of words) {
    const last = joined[joined.length - 1];
    if (last && (last.differs === differs || (last.differs && word.trim() === ""))) last.text += word;
    else joined.push({ text: word, differs });
  }
  return joined.map(({ text, differs }) => (differs ? element("mark", {}, text) : text));
}

function againstAll(text, others) {
  if (!others.length) return [text];
  const each = others.map((other) => marked(text, other));
  return parts(each[0].map(({ word }, place) => ({ word, differs: each.some((one) => one[place].differs) })));
}

function facts(unit) {
  const repairs = unit.attempts.filter((one) => one.purpose === "repair").length;
  const told = [
    ...Object.entries(unit.scores).map(([name, value]) => [name, value === null ? "no score" : number(value)]),
    ["cost", unit.attempt_count === undefined ? null : money(unit.cost_usd, unit.cost_credits)],
    ["tokens", unit.input_tokens === null || unit.input_tokens === undefined ? null
      : `${number(unit.input_tokens)} in, ${number(unit.output_tokens)} out`],
    ["time", unit.latency_seconds === null || unit.latency_seconds === undefined ? null : seconds(unit.latency_seconds)],
    ["model", unit.model], ["finish", unit.finish_reason],
    ["error", [unit.error_kind, unit.error_message].filter(Boolean).join(": ")],
    ["repairs", repairs || null], ["turns", unit.outputs ? unit.outputs.length : null],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "");
  const reasons = unit.attempts.filter((one) => one.judge !== null && one.reason);
  return [
    element("dl", { class: "facts" }, told.map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])),
    ...reasons.map((one) => element("blockquote", {}, element("cite", {}, `judge ${one.judge}`), element("p", { class: "text" }, one.reason))),
  ];
}

// The first request of each unit; of units that were asked the same, once.
function prompts(units) {
  const seen = new Map();
  for (const unit of units) {
    const asked = unit.attempts.find((one) => one.judge === null) ?? unit.prompt;
    if (!asked) continue;
    const key = asked.messages ? JSON.stringify(asked.messages) : `${asked.not_shown}`;
    if (seen.has(key)) seen.get(key).names.push(title(unit, units));
    else seen.set(key, { asked, names: [title(unit, units)] });
  }
  return [...seen.values()].map(({ asked, names }) => element("section", { class: "prompt" },
    element("h3", {}, "Prompt as sent", seen.size > 1 ? ` to ${names.join(", ")}` : ""), messages(asked)));
}

function messages(asked) {
  if (!asked.messages) return element("p", { class: "note" }, `not shown: ${asked.not_shown}`);
  return asked.messages.map((one) => element("div", { class: "message" },
    element("h4", {}, one.role),
    element("pre", { class: "text" }, one.text),
    (one.pictures ?? []).map((url, place) => element("img", { src: url, alt: `picture ${place + 1}`, loading: "lazy" })),
    one.attachments.length ? element("p", { class: "note" }, one.attachments.join(", ")) : null));
}

function attempts(unit) {
  return element("details", { class: "attempts" },
    element("summary", {}, `${unit.variant}, repeat ${unit.repeat}: ${counted(unit.attempts.length, "request")}`),
    unit.attempts.map(attempt));
}

function attempt(one, place) {
  const what = one.judge !== null ? `judge ${one.judge}` : one.purpose === "repair" ? "repair" : `turn ${one.turn + 1}`;
  const told = [
    ["attempt", one.attempt], ["in one request", one.pack_rows ? `row ${one.pack_place} of ${one.pack_rows}` : null], ["HTTP", one.http_status], ["endpoint", one.endpoint], ["model", one.model],
    ["tokens", one.input_tokens === null ? null : `${number(one.input_tokens)} in, ${number(one.output_tokens)} out`],
    ["cost", one.outcome === "done" ? money(one.cost_usd, one.cost_credits) : null],
    ["also billed for", one.other_charges],
    ["held", one.outcome === "unknown" ? money(one.held_usd, one.held_credits) : null],
    ["time", one.latency_seconds === null ? null : seconds(one.latency_seconds)], ["sent", moment(one.started_at)],
    ["finish", one.finish_reason], ["error", [one.error_kind, one.error_message].filter(Boolean).join(": ")],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "");
  return element("section", { class: "attempt" },
    element("h4", {}, `${place + 1}. ${what} `, badge(one.outcome)),
    element("dl", { class: "facts" }, told.map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])),
    one.answer === null ? null : element("pre", { class: "text" }, one.answer),
    raw("request as sent", one.request, one.not_shown), raw("reply as it came", one.reply, null));
}

function raw(name, text, why) {
  if (!text && !why) return null;
  return element("details", {}, element("summary", {}, name),
    text ? element("pre", { class: "text code" }, text) : element("p", { class: "note" }, `not shown: ${why}`));
}
