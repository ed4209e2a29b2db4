// The table of rows: its head sorts, its first column opens.

import { asked, change, put } from "./address.js";
import { badge, byId, element, moment, number } from "./dom.js";

export function showRows(facts, page, actions) {
  const kinds = page.columns.map((name) => facts.columns.find((column) => column.name === name));
  const sort = asked().get("sort") ?? "";
  const isSaid = page.rows.some((row) => row.said.length);
  const focused = document.activeElement?.closest?.("#rows thead button")?.dataset.column;
  byId("rows").tHead.replaceChildren(element("tr", {}, kinds.map((column) => heading(column, sort, actions.changed)),
    isSaid ? element("th", { scope: "col" }, "people") : null));
  byId("rows").tBodies[0].replaceChildren(...page.rows.map((row) => line(row, kinds, isSaid, actions.open)));
  if (focused !== undefined) byId("rows").tHead.querySelector(`[data-column="${CSS.escape(focused)}"]`)?.focus();
}

function heading(column, sort, changed) {
  const way = sort === column.name ? "ascending" : sort === `-${column.name}` ? "descending" : null;
  const next = way === "ascending" ? `-${column.name}` : way === "descending" ? "" : column.name;
  const arrow = way === "ascending" ? " ↑" : way === "descending" ? " ↓" : "";
  const sorted = () => { if (change((to) => put(to, "sort", next), { push: true })) changed(); };
  return element("th", { scope: "col", "aria-sort": way, class: isNumber(column) ? "number" : null },
    element("button", { type: "button", "data-column": column.name, onclick: sorted }, column.name + arrow));
}

function line(row, kinds, isSaid, open) {
  const cells = row.cells.map((value, place) => {
    const shown = cell(value, kinds[place]);
    if (place > 0) return element("td", { class: isNumber(kinds[place]) ? "number" : null }, shown);
    const opens = element("button", { type: "button", class: "open", onclick: () => open(row) }, shown);
    return element("th", { scope: "row" }, opens);
  });
  if (isSaid) cells.push(element("td", { class: "said" }, saidOf(row)));
  return element("tr", { "data-key": row.key, "data-id": row.id, "data-variant": row.variant, "data-repeat": row.repeat, onclick: (event) => {
    if (!event.target.closest("button") && String(getSelection()) === "") open(row);
  } }, cells);
}

// The label of the row, whichever answer it was seen with; verdict and comment of this answer.
function saidOf(row) {
  const words = row.said.flatMap((one) => {
    const isThis = one.variant === null || (one.variant === row.variant && one.repeat === row.repeat);
    return [one.label, isThis ? one.verdict : null, isThis ? one.comment : null];
  }).filter(Boolean);
  return [...new Set(words)].join(", ");
}

const isNumber = (column) => column.kind === "number" || column.kind === "money";

function cell(value, column) {
  if (value === null) return element("span", { class: "null", "aria-label": "null" }, "–");
  if (column.name === "status") return badge(value);
  if (column.kind === "number") return number(value);
  if (column.kind === "moment") return moment(value);
  if (column.kind === "nested") return element("span", { class: "text" }, breakable(String(value)));
  return element("span", { class: "text" }, typeof value === "object" ? JSON.stringify(value) : value);
}

// JSON has no blanks to break a line at: it may be broken after a comma, and what is copied stays as it was.
function breakable(json) {
  return json.split(/(?<=,)/).flatMap((piece, place) => (place ? [element("wbr"), piece] : [piece]));
}

export function lines() {
  return [...byId("rows").tBodies[0].rows];
}

export function select(tr) {
  for (const one of lines()) one.classList.toggle("chosen", one === tr);
  if (tr) tr.querySelector("button.open").focus();
}

// The row that the keyboard is at: the one that has the focus, or was chosen last.
export function selected() {
  const focused = document.activeElement?.closest?.("#rows tbody tr");
  return focused ?? lines().find((one) => one.classList.contains("chosen")) ?? null;
}

export function mark(id) {
  for (const one of lines()) one.classList.toggle("chosen", id !== null && one.dataset.id === id);
}
