// The controls above the rows: made from the run's facts, set from the address, and back.

import { asked, change, put, putAll } from "./address.js";
import { byId, element, show } from "./dom.js";

const OPERATORS = [["", "any"], ["=", "="], ["<", "<"], ["<=", "≤"], [">", ">"], [">=", "≥"], ["none", "no score"]];

const QUEUES = { disagreements: "variants disagree", confidence: "lowest confidence", random: "random sample", judge: "judge against people" };

export function makeFilters(facts, changed) {
  ticks(byId("statuses"), "status", facts.statuses, changed);
  ticks(byId("variants"), "variant", facts.variants, changed);
  show(byId("variants"), facts.variants.length > 1);
  show(byId("differ-choice"), facts.variants.length > 1);
  makeScores(facts.scores, changed);
  makeColumns(facts, changed);
  byId("within").replaceChildren(element("option", { value: "" }, "all columns"),
    ...facts.columns.map((column) => element("option", { value: column.name }, column.name)));
  byId("queue").replaceChildren(element("option", { value: "" }, "none"),
    ...facts.queues.map((name) => element("option", { value: name }, QUEUES[name])));
  showFilters(facts, true);
}

export function listen(changed) {
  let waiting = 0;
  byId("q").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => edit((to) => put(to, "q", byId("q").value), changed), 250);
  });
  byId("within").addEventListener("change", (event) => edit((to) => put(to, "in", event.target.value), changed));
  byId("regex").addEventListener("change", (event) => edit((to) => put(to, "regex", event.target.checked), changed));
  byId("differ").addEventListener("change", (event) => edit((to) => put(to, "differ", event.target.checked), changed));
  byId("where").addEventListener("change", (event) => edit((to) => put(to, "where", event.target.value), changed));
  for (const name of ["queue", "annotated"]) {
    byId(name).addEventListener("change", (event) => edit((to) => put(to, name, event.target.value), changed));
  }
  byId("filters").addEventListener("submit", (event) => {
    event.preventDefault();
    edit((to) => { put(to, "q", byId("q").value); put(to, "where", byId("where").value); }, changed);
  });
  byId("reset").addEventListener("click", () => edit((to) => {
    for (const name of ["q", "in", "regex", "differ", "where", "status", "variant", "score", "queue", "annotated"]) to.delete(name);
  }, changed));
  addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  });
}

function edit(how, changed) {
  if (change(how, { push: true })) changed();
}

// `isWhole`: also the field that has the focus, in which else what is being typed stays.
export function showFilters(facts, isWhole = false) {
  const from = asked();
  const fill = (node, value) => { if (isWhole || document.activeElement !== node) node.value = value ?? ""; };
  fill(byId("q"), from.get("q"));
  fill(byId("where"), from.get("where"));
  fill(byId("within"), from.get("in"));
  for (const name of ["queue", "annotated"]) fill(byId(name), from.get(name));
  byId("regex").checked = from.get("regex") === "1";
  byId("differ").checked = from.get("differ") === "1";
  const shown = columnsShown(facts);
  for (const [menu, chosen] of [["statuses", from.getAll("status")], ["variants", from.getAll("variant")], ["columns", shown]]) {
    const node = byId(menu);
    for (const box of node.querySelectorAll("input")) box.checked = chosen.includes(box.value);
    const told = menu !== "columns" && chosen.length ? `: ${chosen.join(", ")}` : "";
    node.querySelector("summary").textContent = node.querySelector("legend").textContent + told;
  }
  showScores(from.getAll("score"), fill);
}

export function columnsShown(facts) {
  const chosen = asked().getAll("column");
  const there = new Set(facts.columns.map((column) => column.name));
  const kept = chosen.filter((name) => there.has(name));
  return kept.length ? kept : facts.shown;
}

function ticks(menu, name, values, changed) {
  const boxes = values.map((value) => tick(value, () => {
    const chosen = [...menu.querySelectorAll("input:checked")].map((box) => box.value);
    edit((to) => putAll(to, name, chosen), changed);
  }));
  menu.querySelector("fieldset").replaceChildren(menu.querySelector("legend"), ...boxes);
}

function tick(value, onchange) {
  return element("label", { class: "tick" }, element("input", { type: "checkbox", value, onchange }), " ", value);
}

function makeColumns(facts, changed) {
  const menu = byId("columns");
  const boxes = facts.columns.map((column) => tick(column.name, () => {
    const ticked = new Set([...menu.querySelectorAll("input:checked")].map((box) => box.value));
    const names = facts.columns.map((one) => one.name).filter((one) => ticked.has(one));
    const before = columnsShown(facts);
    const kept = before.filter((one) => ticked.has(one));
    edit((to) => putAll(to, "column", [...kept, ...names.filter((one) => !kept.includes(one))]), changed);
  }));
  menu.querySelector("fieldset").replaceChildren(menu.querySelector("legend"), ...boxes);
}

function makeScores(scores, changed) {
  const menu = byId("scores");
  const lines = scores.map((score) => {
    const told = () => {
      const all = [...menu.querySelectorAll("[data-score]")].map(bound).filter(Boolean);
      edit((to) => putAll(to, "score", all), changed);
    };
    const operator = element("select", { "aria-label": `${score.name}: how`, onchange: told },
      ...OPERATORS.map(([value, word]) => element("option", { value }, word)));
    const value = element("input", { type: "number", step: "any", value: "1", "aria-label": `${score.name}: value`, onchange: told });
    return element("div", { class: "bound", "data-score": score.name },
      element("span", {}, score.is_judge ? `${score.name} (judge)` : score.name), operator, value);
  });
  menu.querySelector("fieldset").replaceChildren(menu.querySelector("legend"), ...lines);
  show(menu, scores.length > 0);
}

function bound(line) {
  const [operator, value] = [line.querySelector("select").value, line.querySelector("input").value];
  if (operator === "") return null;
  return operator === "none" ? `${line.dataset.score}:none` : `${line.dataset.score}${operator}${value || 0}`;
}

function showScores(chosen, fill) {
  for (const line of byId("scores").querySelectorAll("[data-score]")) {
    const name = line.dataset.score;
    const text = chosen.find((one) => one.startsWith(name) && /^(:none|[<>=])/.test(one.slice(name.length)));
    const found = text === undefined ? null : /^(<=|>=|<|>|=)(.*)$/.exec(text.slice(name.length));
    fill(line.querySelector("select"), text === undefined ? "" : found ? found[1] : "none");
    if (found) fill(line.querySelector("input"), found[2]);
  }
  const summary = byId("scores").querySelector("summary");
  summary.textContent = chosen.length ? `scores: ${chosen.join(", ")}` : "scores";
}
