// What a person says of an answer: saved at once, shown as saved only when it is on the disk.

import { ask, tell } from "./api.js";
import { asked } from "./address.js";
import { element } from "./dom.js";

const NAME = "crun-batch-annotator";

export const annotator = () => localStorage.getItem(NAME) || null;

export function annotateForm(unit, rowId, said, changed) {
  const mine = said.find((one) => one.variant === unit.variant && one.repeat === unit.repeat
    && (annotator() === null || one.annotator === annotator())) ?? { label: null, verdict: null, comment: null };
  const state = element("span", { role: "status", class: "saved" });
  const now = { label: mine.label, verdict: mine.verdict, comment: mine.comment };
  const name = `${unit.variant}, repeat ${unit.repeat}`;
  const label = element("input", { type: "text", value: now.label ?? "", "aria-label": `right label of the row, seen with ${name}`, placeholder: "right label", list: "labels" });
  const comment = element("input", { type: "text", value: now.comment ?? "", "aria-label": `comment on ${name}`, placeholder: "comment" });
  const verdicts = ["pass", "fail"].map((verdict) => element("button", { type: "button", class: `verdict is-${verdict === "pass" ? "ok" : "error"}`,
    "aria-pressed": String(now.verdict === verdict), "data-verdict": verdict,
    onclick: () => save({ verdict: now.verdict === verdict ? null : verdict }) }, verdict));

  async function save(change) {
    Object.assign(now, change);
    state.textContent = "saving …";
    try {
      const { saved, said: all } = await tell("annotate", run(), { row_id: String(rowId), variant: unit.variant,
        repeat: unit.repeat, annotator: annotator(), ...now });
      for (const one of verdicts) one.setAttribute("aria-pressed", String(saved.verdict === one.dataset.verdict));
      label.value = saved.label ?? "";
      state.textContent = `saved by ${saved.annotator}`;
      changed(all);
    } catch (error) {
      state.textContent = `not saved: ${error.message}`;
    }
  }

  label.addEventListener("change", () => save({ label: label.value.trim() || null }));
  comment.addEventListener("change", () => save({ comment: comment.value.trim() || null }));
  const labelled = labelOf(unit);
  const confirm = labelled === null ? null : element("button", { type: "button", class: "confirm",
    onclick: () => save({ label: labelled }) }, "confirm label");
  if (mine.annotator) state.textContent = `said by ${mine.annotator}`;
  return element("div", { class: "annotate", "data-variant": unit.variant, "data-repeat": unit.repeat },
    element("div", { class: "line" }, verdicts, confirm, state), label, comment);
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
