// How the run goes: asked again and again while it runs.

import { about, badge, byId, counted, element, moment, number, seconds, show } from "./dom.js";

export function showLive(status) {
  const state = byId("state");
  state.replaceWith(Object.assign(badge(status.status), { id: "state" }));
  const bar = byId("bar");
  bar.max = Math.max(1, status.units.total);
  bar.value = status.units_done;
  bar.setAttribute("aria-label", `${status.noun}s done`);
  byId("figures").replaceChildren(...figures(status).flatMap(([name, value]) => [element("div", {},
    element("dt", {}, name), element("dd", {}, value))]));
  const words = byId("words");
  const waiting = status.pace?.waiting_reason;  // up to 5 s old: whether it is paused is known better
  words.textContent = [status.stop_reason, paused(status), waiting === "paused" ? null : waiting].filter(Boolean).join("; ");
  show(words, words.textContent !== "");
  show(byId("live"), true);
}

const paused = (status) => (status.is_running && status.steering?.paused
  ? `paused at ${moment(status.steering.paused.at)} by ${status.steering.paused.by.user}` : null);

function figures(status) {
  const units = status.units;
  const notOk = ["error", "invalid", "truncated", "refused"].filter((name) => units[name])
    .map((name) => `${number(units[name])} ${name}`);
  const pace = status.pace;
  // rows of several units are counted by the session, every few seconds; units are from its journal
  const whenCounted = status.noun === "unit" && ["running", "killed"].includes(status.status) ? " as last counted" : "";
  return [
    ["rows", `${number(status.rows_done)} of ${number(status.rows.total)}${whenCounted}`],
    ...(status.noun === "unit" ? [["units", `${number(status.units_done)} of ${number(units.total)}`]] : []),
    [status.noun === "unit" ? "units not ok" : "not ok", notOk.join(", ") || "none"],
    ["spent", about(status.cost_usd, status.cost_credits)],
    ...held(pace ?? status),
    ...(status.is_running ? [
      ["projected", about(status.projected_usd, status.projected_credits)],
      ["rate", status.rate === null ? "unknown" : `${number(Number(status.rate.toFixed(1)))} ${status.noun}s/s`],
      ["left", seconds(status.eta_seconds)],
      ["in flight", pace ? `${number(status.in_flight)} of at most ${number(pace.limit)}` : number(status.in_flight)],
    ] : [["took", seconds(status.seconds)]]),
  ];
}

// Nothing where nothing is held. A unit in which nothing is, or in which it is unknown, is not told beside the other.
export function held({ held_usd: usd, held_credits: credits }) {
  const [dollars, others] = [usd, credits].map((text) => (text === "0" ? null : text));
  const isUnknown = usd === null && credits === null;
  return isUnknown || dollars !== null || others !== null ? [["held", about(dollars, others)]] : [];
}

export function showFailures(found, noun) {
  const node = byId("failures");
  const all = [...found.rows, ...found.requests];
  show(node, all.length > 0);
  const [units, requests] = [found.rows_count, found.requests_count];
  node.querySelector("summary").textContent = [units ? `${counted(units, noun)} not ok` : "",
    requests ? `${counted(requests, "request")} without an answer` : ""].filter(Boolean).join(", ");
  node.querySelector("div").replaceChildren(...[[noun === "unit" ? "Units" : "Rows", found.rows], ["Requests", found.requests]]
    .filter(([, lines]) => lines.length).map(([title, lines]) => failures(title, lines)),
  rest(found) ? element("p", { class: "note" }, `and ${number(rest(found))} more, with other words`) : "");
}

// Those whose words are not among the most frequent ones.
function rest(found) {
  const told = [...found.rows, ...found.requests].reduce((sum, one) => sum + one.count, 0);
  return found.rows_count + found.requests_count - told;
}

function failures(title, lines) {
  const head = element("tr", {}, [title, "kind", "HTTP", "what was said"].map((name) => element("th", { scope: "col" }, name)));
  const body = lines.map((one) => element("tr", {},
    element("td", { class: "number" }, number(one.count)),
    element("td", {}, badge(one.status), " ", one.kind ?? ""),
    element("td", {}, one.http_status ?? ""),
    element("td", { class: "text" }, one.message ?? "")));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, body));
}
