// Telling the running job something: a pause, an end, other limits and caps. What it answers is said as it says it.

import { asked } from "./address.js";
import { tell } from "./api.js";
import { byId, element, number, show } from "./dom.js";

// `changed` looks at the run again.
export function makeSteering(changed) {
  byId("pause").addEventListener("click", () => say({ do: byId("pause").dataset.do }));
  byId("stop").addEventListener("click", () => byId("sure").showModal());
  byId("go-on").addEventListener("click", () => byId("sure").close());
  byId("stop-it").addEventListener("click", () => { byId("sure").close(); say({ do: "stop" }); });
  byId("steer").addEventListener("submit", (event) => {
    event.preventDefault();
    const values = changedValues();
    if (Object.keys(values).length) say({ do: "set", values });
    else byId("told").textContent = "nothing is changed";
  });

  async function say(question) {
    byId("told").textContent = "asking the run …";
    try {
      const run = asked().get("run");
      const answer = await tell("steer", new URLSearchParams(run ? { run } : {}), question);
      byId("told").textContent = inWords(question.do, answer);
      byId("limits").open = false;
    } catch (error) {
      byId("told").textContent = error.message;
    }
    changed();
  }
}

const WORDS = { pause: "paused", resume: "it goes on", stop: "it stops" };

function inWords(what, answer) {
  const waits = what === "pause" || what === "stop" ? `; ${number(answer.in_flight)} in flight are waited for` : "";
  const changes = answer.changes.map((one) => `${one.key}: ${one.old ?? "none"} → ${one.new ?? "none"}`);
  return what === "set" ? changes.join(", ") : WORDS[what] + waits;
}

export function showSteering(status, maySteer) {
  show(byId("steer"), maySteer && status.is_running);
  if (!status.is_running) return;
  const isPaused = Boolean(status.steering?.paused);
  byId("pause").dataset.do = isPaused ? "resume" : "pause";
  byId("pause").textContent = byId("pause").dataset.do;
  if (!byId("limits").open) showValues(status.settings);
}

function showValues(settings) {
  byId("limits").querySelector("fieldset").replaceChildren(element("legend", {}, "limits and caps"),
    ...Object.entries(settings).map(([key, value]) => element("label", { class: "bound" }, element("span", {}, key),
      element("input", { type: "text", inputmode: "decimal", name: key, value: value ?? "", placeholder: "none", "data-was": value ?? "" }))),
    element("button", { type: "submit" }, "set"));
}

// Limits are whole numbers, amounts go as the text that was written; what is emptied takes the job file's default.
function changedValues() {
  const inputs = [...byId("limits").querySelectorAll("input")].filter((one) => one.value.trim() !== one.dataset.was);
  return Object.fromEntries(inputs.map((one) => [one.name, valueOf(one.value.trim())]));
}

const valueOf = (text) => (text === "" ? null : /^\d{1,15}$/.test(text) ? Number(text) : text);
