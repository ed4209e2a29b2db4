// Questions to the server of this page. The token came behind the # of the first address and is kept for this origin.

const KEPT = "crun-batch-token";

export function takeToken() {
  const found = /^#token=([\w-]+)$/.exec(location.hash);
  if (found) localStorage.setItem(KEPT, found[1]);
  if (location.hash) history.replaceState(null, "", location.pathname + location.search);
}

export class Refused extends Error {}

export async function ask(name, parameters, signal) {
  return sent(name, parameters, { signal });
}

// Saves what a person says: returns when it is on the disk.
export async function tell(name, parameters, said) {
  return sent(name, parameters, { method: "POST", body: JSON.stringify(said), keepalive: true });
}

async function sent(name, parameters, how) {
  let answer;
  try {
    const json = how.body ? { "Content-Type": "application/json" } : {};
    answer = await fetch(`/api/${name}?${parameters ?? ""}`, { ...how, headers: { ...headers(), ...json }, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("the page's server does not answer: crun-batch view has ended");
  }
  return read(answer);
}

function headers() {
  return { "X-Crun-Batch-Token": localStorage.getItem(KEPT) ?? "" };
}

async function read(answer) {
  const document = await answer.json();
  if (!answer.ok) throw new Refused(document.error);
  return document;
}
