// The page: what the address says is asked for and shown, and keys lead through it.

import { asked, change, put } from "./address.js";
import { labelOf, nameField, people } from "./annotate.js";
import { showCompare } from "./compare.js";
import { ask, takeToken } from "./api.js";
import { byId, counted, element, number, show } from "./dom.js";
import { columnsShown, listen, makeFilters, showFilters } from "./filters.js";
import { showFailures, showLive } from "./live.js";
import { hideRow, showRow } from "./row.js";
import { makeSteering, showSteering } from "./steer.js";
import { lines, mark, select, selected, showRows } from "./table.js";

const LIVE_EVERY_MS = 2000;
const state = { facts: null, page: null, seen: {}, loading: new AbortController(), troubles: new Map(),
  opened: null, opening: null };  // the line whose row was opened last, and its coming

async function start() {
  takeToken();
  listen(load);
  byId("run").addEventListener("change", () => {
    history.pushState(null, "", `?${new URLSearchParams({ run: byId("run").value })}`);
    open();
  });
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  byId("to-page").addEventListener("change", (event) => {
    const page = Math.trunc(Number(event.target.value));
    event.target.value = "";
    if (page >= 1) turnTo(Math.min(page, Number(event.target.max)));
  });
  for (const [id, view] of [["to-rows", null], ["to-compare", "compare"]]) {
    byId(id).addEventListener("click", () => {
      if (change((to) => { put(to, "view", view); if (view) to.delete("id"); }, { push: true })) load();
    });
  }
  makeSteering(watch);
  byId("show-help").addEventListener("click", () => byId("help").showModal());
  byId("hide-help").addEventListener("click", () => byId("help").close());
  addEventListener("popstate", open);
  addEventListener("keydown", pressed);
  addEventListener("pagehide", () => document.activeElement?.blur());  // what was typed of an answer is saved
  await open();
  setInterval(() => { if (!document.hidden) watch(); }, LIVE_EVERY_MS);
}

// The run of the address, then its rows.
async function open() {
  await told("run", async () => {
    const facts = await ask("facts", asked());
    state.facts = facts;
    document.title = `${facts.name} · crun-batch`;
    makeFilters(facts, load);
    await showRuns(facts.run);
    await Promise.all([load(), watch(), showPeople()]);
  });
}

async function showRuns(current) {
  const runs = await ask("runs");
  const choice = byId("run");
  choice.replaceChildren(...runs.map((run) => element("option", { value: run.directory, disabled: run.problem !== null && run.directory !== current },
    run.problem !== null ? `${run.directory} (${run.problem})` : `${run.directory} · ${run.status}`)));
  choice.value = current;
  show(choice.closest("label"), runs.length > 1);
}

// The rows, or the variants side by side.
async function load() {
  const isCompare = asked().get("view") === "compare";
  for (const id of ["filters", "rows-part"]) show(byId(id), !isCompare);
  show(byId("compare"), isCompare);
  byId("to-rows").setAttribute("aria-pressed", String(!isCompare));
  byId("to-compare").setAttribute("aria-pressed", String(isCompare));
  if (!isCompare) return loadRows();
  hideRow();
  byId("compare").setAttribute("aria-busy", "true");
  if (!byId("compare").childElementCount) {  // of a million rows it takes seconds
    byId("compare").append(element("p", { id: "comparing", class: "note", role: "status" }, "comparing the variants …"));
  }
  await told("rows", () => showCompare(load));
  byId("comparing")?.remove();
  byId("compare").removeAttribute("aria-busy");
}

async function loadRows() {
  state.loading.abort();
  const loading = new AbortController();
  state.loading = loading;
  const parameters = asked();
  parameters.delete("column");
  for (const name of columnsShown(state.facts)) parameters.append("column", name);
  showFilters(state.facts);
  byId("count").textContent = "…";
  const opened = told("row", () => openRow(loading.signal));
  await told("rows", async () => {
    const page = await ask("rows", parameters, loading.signal);
    state.page = page;
    showRows(state.facts, page, { open: (row) => goTo(row), changed: load });
    byId("page").textContent = `page ${number(page.page)}`;
    byId("previous").disabled = page.page === 1;
    byId("next").disabled = page.is_last;
    mark(asked().get("id"));
    document.body.dataset.shown = parameters.toString();
    const { rows } = await ask("count", parameters, loading.signal);
    byId("count").textContent = counted(rows, state.facts.noun);
    const pages = Math.max(1, Math.ceil(rows / page.rows_a_page));
    if (page.page > pages && change((to) => put(to, "page", pages === 1 ? null : pages), { keepPage: true })) return load();
    byId("page").textContent = `page ${number(page.page)} of ${number(pages)}`;
    byId("to-page").max = pages;
    show(byId("to-page"), pages > 2);
  });
  await opened;
}

function turn(by) {
  if (by > 0 && state.page?.is_last) return;
  turnTo(Math.max(1, (state.page?.page ?? 1) + by));
}

function turnTo(page) {
  if (change((to) => put(to, "page", page === 1 ? null : page), { push: true, keepPage: true })) load();
}

// Open the row of that id, or none.
function go(id) {
  change((to) => put(to, "id", id), { push: true, keepPage: true });
  mark(id === null ? null : String(id));
  state.opening = told("row", () => openRow());
  return state.opening;
}

// Open the row of a line, to be read and scrolled by the keys at once.
async function goTo({ id, variant, repeat }) {
  state.opened = { id: String(id), variant, repeat: String(repeat) };
  await go(id);
  if (document.activeElement === document.body || document.activeElement.closest("#rows, #row")) byId("row").focus();
}

async function openRow(signal) {
  const parameters = asked();
  const id = parameters.get("id");
  if (id === null) { hideRow(); return; }
  const named = new URLSearchParams({ id, ...(parameters.get("run") ? { run: parameters.get("run") } : {}) });
  const row = await ask("row", named, signal).catch((error) => {
    if (error.name !== "AbortError" && byId("row").dataset.id !== id) hideRow();  // no other row is taken for this one
    throw error;
  });
  if (asked().get("id") !== id) return;
  const labels = new Set([...row.units.map(labelOf), ...row.said.map((one) => one.label)].filter((label) => label !== null));
  byId("labels").replaceChildren(...[...labels].map((value) => element("option", { value })));
  showRow(row, { close, before: () => step(-1), after: () => step(1), saved });
  byId("row").dataset.id = id;
}

// What is said of an answer is being saved: where that fails it is told above all, also when its row is closed by then.
function saved(answer, work) {
  return told(`said of ${answer}`, async () => {
    await work();
    showPeople();
  });
}

// How much is annotated, and how far judges agree with people.
async function showPeople() {
  await told("people", async () => {
    const found = await people();
    const words = `annotated: ${counted(found.rows, "row")}, ${counted(found.labels, "label")}, ${counted(found.verdicts, "verdict")}`;
    byId("people").querySelector("summary").textContent = found.rows ? words : "people";
    byId("people").querySelector("div").replaceChildren(nameField(() => openRow()), ...found.judges.map(judge),
      element("p", { class: "note" }, "crun-batch compare --gold annotations uses the labels; annotate export writes all."));
  });
}

const share = (rate) => (rate === null ? "unknown" : `${(100 * rate.value).toFixed(1)} % (${(100 * rate.low).toFixed(1)} to ${(100 * rate.high).toFixed(1)})`);

function judge(one) {
  return element("p", {}, `judge ${one.judge}: passes ${share(one.true_positive_rate)} of ${number(one.passed)} answers that people pass (TPR), `
    + `fails ${share(one.true_negative_rate)} of ${number(one.failed)} that people fail (TNR); intervals are 95 %`);
}

function close() {
  const at = asked().get("id");
  go(null);
  const all = lines().filter((one) => one.dataset.id === at);
  const tr = all.find((one) => isOf(one, state.opened)) ?? all[0];
  if (tr) select(tr);
}

// The next row of the page, or the one before: of those with another id where one is open.
function step(by) {
  const all = lines();
  if (!all.length) return;
  const id = asked().get("id");
  const at = all.indexOf(selected());
  let to = at < 0 ? (by > 0 ? 0 : all.length - 1) : at + by;
  while (id !== null && all[to] && all[to].dataset.id === id) to += by;
  if (!all[to]) return;
  select(all[to]);
  if (id !== null) goTo(all[to].dataset);
}

async function watch() {
  if (state.facts === null) return open();
  return told("status", async () => {
    const status = await ask("status", asked());
    showLive(status);
    showSteering(status, state.facts.may_steer);
    const done = `${status.units_done} ${status.attempts}`;
    if (state.seen.run === asked().get("run") && state.seen.done === done) return;
    const isNews = state.seen.run === asked().get("run");
    state.seen = { run: asked().get("run"), done };
    if (isNews && asked().get("id") === null && !document.activeElement?.closest("#rows")) await load();
    showFailures(await ask("failures", asked()), status.noun);
  });
}

// What cannot be answered is said above the rows, until the same question can be.
async function told(what, work) {
  try {
    await work();
    state.troubles.delete(what);
  } catch (error) {
    if (error.name === "AbortError") return;
    state.troubles.set(what, error.message);
    if (what === "rows") byId("count").textContent = "";
  }
  const words = [...new Set(state.troubles.values())];
  byId("trouble").textContent = words.join("\n");
  show(byId("trouble"), words.length > 0);
}

const KEYS = {
  j: () => step(1), k: () => step(-1), n: () => turn(1), p: () => turn(-1), r: load,
  y: () => press("[data-verdict=pass]"), x: () => press("[data-verdict=fail]"), c: () => press(".confirm"),
  "/": () => byId("q").focus(), "?": () => byId("help").showModal(),
};

// Whether a line or a form is of the same answer.
const isOf = (one, other) => one.dataset.variant === other?.variant && one.dataset.repeat === other?.repeat;

// In the form that has the focus; else in that of the answer whose line was opened, else in the first. Of a row that
// is still to come, when it is there.
async function press(which) {
  const id = asked().get("id");
  await state.opening;
  if (id === null || byId("row").dataset.id !== id || asked().get("id") !== id) return;
  const forms = [...document.querySelectorAll("#row .annotate")];
  const opened = state.opened?.id === id ? state.opened : null;
  const form = document.activeElement?.closest("#row .annotate") ?? forms.find((one) => isOf(one, opened)) ?? forms[0];
  form?.querySelector(which)?.click();
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const isTyping = event.target.matches?.("input:not([type=checkbox]), select, textarea");
  if (event.key === "Escape") {
    if (isTyping) event.target.blur();
    else if (asked().get("id") !== null) close();
    return;
  }
  if (isTyping || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
}

start();
