// What a person says of an answer: saved at once, shown as saved only when it is on the disk.

import { ask, tell } from "./api.js";
import { asked } from "./address.js";
import { element } from "./dom.js";

const NAME = "crun-batch-annotator";

export const annotator = () => localStorage.getItem(NAME) || null;

// `person`: who says it where no name is given; `saved` waits for what is being saved and is told of which answer it is.
export function annotateForm(unit, row, saved) {
  const { id, said, person } = row;
  const ofThis = said.filter((one) => one.variant === unit.variant && one.repeat === unit.repeat);
  const me = annotator() ?? person;
  const mine = ofThis.find((one) => one.annotator === me);
  const state = element("span", { role: "status", class: "saved" }, mine ? `said by ${me}` : null);
  const now = { label: mine?.label ?? null, verdict: mine?.verdict ?? null, comment: mine?.comment ?? null };
  const name = `${unit.variant}, repeat ${unit.repeat}`;
  const label = element("input", { type: "text", value: now.label ?? "", "aria-label": `right label of the row, seen with ${name}`, placeholder: "right label", list: "labels" });
  const comment = element("input", { type: "text", value: now.comment ?? "", "aria-label": `comment on ${name}`, placeholder: "comment" });
  const verdicts = ["pass", "fail"].map((verdict) => element("button", { type: "button", class: `verdict is-${verdict === "pass" ? "ok" : "error"}`,
    "aria-pressed": String(now.verdict === verdict), "data-verdict": verdict,
    onclick: () => save({ verdict: now.verdict === verdict ? null : verdict }) }, verdict));
  let waiting = 0;
  let last = Promise.resolve();

  // One after the other, and only what is changed: what another window has said meanwhile stays.
  function save(change) {
    Object.assign(now, change);
    state.textContent = "saving …";
    waiting += 1;
    last = last.then(() => saved(`${id} ${name}`, () => sent(change)));
  }

  async function sent(change) {
    try {
      const answer = await tell("annotate", run(), { row_id: String(id), variant: unit.variant, repeat: unit.repeat,
        annotator: annotator(), ...change });
      waiting -= 1;
      if (!waiting) shown(answer.saved);
      state.textContent = waiting ? "saving …" : `saved by ${answer.saved.annotator}`;
    } catch (error) {
      waiting -= 1;
      if ("verdict" in change) now.verdict = verdicts.find((one) => one.getAttribute("aria-pressed") === "true")?.dataset.verdict ?? null;
      state.textContent = `not saved: ${error.message}`;
      throw new Error(`row ${id}, ${name}: not saved: ${error.message}`);
    }
  }

  // As it is on the disk; what is being typed stays.
  function shown(found) {
    for (const one of verdicts) one.setAttribute("aria-pressed", String(found.verdict === one.dataset.verdict));
    for (const [key, input] of Object.entries({ label, comment })) {
      if (input.value.trim() === (now[key] ?? "")) input.value = found[key] ?? "";
      now[key] = found[key];
    }
    now.verdict = found.verdict;
  }

  label.addEventListener("change", () => save({ label: label.value.trim() || null }));
  comment.addEventListener("change", () => save({ comment: comment.value.trim() || null }));
  const labelled = labelOf(unit);
  const confirm = labelled === null ? null : element("button", { type: "button", class: "confirm",
    onclick: () => { label.value = labelled; save({ label: labelled }); } }, "confirm label");
  const others = ofThis.filter((one) => one.annotator !== me).map((one) => element("p", { class: "note" },
    `${one.annotator}: ${[one.verdict, one.label, one.comment].filter(Boolean).join(", ")}`));
  return element("div", { class: "annotate", "data-variant": unit.variant, "data-repeat": unit.repeat },
    element("div", { class: "line" }, verdicts, confirm, state), label, comment, others);
}

// The label that an answer gives: the field `label` of a typed one, its only field, or a short text.
export function labelOf(unit) {
  const output = unit.output;
  if (output !== null && typeof output === "object") {
    const names = Object.keys(output);
    const value = "label" in output ? output.label : names.length === 1 ? output[names[0]] : null;
    return value === null || typeof value === "object" ? null : String(value);
  }
  const text = (unit.output_text ?? "").trim();
  return text && text.length <= 60 ? text : null;
}

function run() {
  const name = asked().get("run");
  return new URLSearchParams(name ? { run: name } : {});
}

export async function people() {
  return ask("people", run());
}

export function nameField(changed) {
  return element("label", {}, "you are ", element("input", { type: "text", value: annotator() ?? "",
    placeholder: "user of this machine", onchange: (event) => {
      localStorage.setItem(NAME, event.target.value.trim());
      changed();
    } }));
}
