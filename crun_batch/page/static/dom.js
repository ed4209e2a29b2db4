// Elements from values: a text only ever becomes text. No markup is parsed on this page.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : String(value));
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined).map(asNode));
  return made;
}

function asNode(child) {
  return child instanceof Node ? child : document.createTextNode(String(child));
}

export const byId = (id) => document.getElementById(id);

export function show(node, isShown) {
  node.hidden = !isShown;
}

const STATUSES = new Set(["ok", "invalid", "truncated", "refused", "error", "open", "finished", "stopped", "running",
  "killed", "interrupted", "starting", "done", "rejected", "unknown", "not_sent"]);

export function badge(word) {
  return element("span", { class: STATUSES.has(word) ? `badge is-${word}` : "badge" }, word ?? "unknown");
}

export function seconds(value) {
  if (value === null || value === undefined) return "unknown";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 90) return `${value.toFixed(value < 10 ? 1 : 0)} s`;
  if (value < 5400) return `${Math.round(value / 60)} min`;
  return `${(value / 3600).toFixed(1)} h`;
}

export function number(value) {
  return typeof value === "number" ? value.toLocaleString("en-US", { maximumFractionDigits: 6 }) : String(value);
}

export const counted = (many, noun) => `${number(many)} ${noun}${many === 1 ? "" : "s"}`;

export function money(usd, credits) {
  const known = [usd !== null && usd !== undefined ? `$${usd}` : null,
    credits !== null && credits !== undefined ? `${credits} credits` : null].filter(Boolean);
  return known.length ? known.join(", ") : "unknown";
}

// For a glance: four digits that count. The exact amount stands in its title.
export function about(usd, credits) {
  const short = (text) => (text === null || text === undefined ? text : Number(Number(text).toPrecision(4)).toString());
  return element("span", { title: money(usd, credits) }, money(short(usd), short(credits)));
}

export function moment(text) {
  return text === null ? null : String(text).replace("T", " ").replace(/(\.\d+)?Z$/, "");
}
