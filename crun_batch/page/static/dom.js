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

const isKnown = (text) => text !== null && text !== undefined;

// Nothing is nothing in every unit, as in a terminal.
export function money(usd, credits) {
  const isNothing = [usd, credits].every((text) => isKnown(text) && /^0(\.0*)?$/.test(text));
  const known = [isKnown(usd) ? `$${usd}` : null,
    isKnown(credits) && !isNothing ? `${credits} credit${credits === "1" ? "" : "s"}` : null].filter(Boolean);
  return known.length ? known.join(", ") : "unknown";
}

// An amount in the digits that a terminal shows, of its decimal text: two decimals from 1 on, below it four digits
// that count; half to even; no zeros at the end past `least` decimals.
export function rounded(text, least) {
  const [whole, fraction = ""] = text.split(".");
  const zeros = whole === "0" ? fraction.search(/[1-9]/) : -1;
  const decimals = zeros < 0 ? 2 : zeros + 4;
  const rest = fraction.slice(decimals).replace(/0+$/, "");
  let scaled = BigInt(whole + fraction.slice(0, decimals).padEnd(decimals, "0"));
  if (rest > "5" || (rest === "5" && scaled % 2n === 1n)) scaled += 1n;
  const digits = scaled.toString().padStart(decimals + 1, "0");
  const shown = digits.slice(-decimals).replace(/0+$/, "").padEnd(least, "0");
  const left = BigInt(digits.slice(0, -decimals)).toLocaleString("en-US");
  return shown ? `${left}.${shown}` : left;
}

// For a glance. The exact amount stands in its title.
export function about(usd, credits) {
  const short = (text, least) => (isKnown(text) ? rounded(text, least) : text);
  return element("span", { title: money(usd, credits) }, money(short(usd, 2), short(credits, 0)));
}

export function moment(text) {
  return text === null ? null : String(text).replace("T", " ").replace(/(\.\d+)?(Z|\+00:00)$/, " UTC");
}
