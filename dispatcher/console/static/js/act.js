// What is done to many jobs at once: the bar below a list with a selection, a question with their number, and how
// far it is. The dispatcher acts; a request that comes again goes on where the last one ended.

import { useEffect, useRef, useState } from "preact/hooks";
import { get, post } from "./api.js";
import { count } from "./format.js";
import { overview } from "./live.js";
import { html, Trouble } from "./parts.js";
import { spoken } from "./query.js";

/** @typedef {{ids: Set<number>, all: boolean}} Chosen */
/** @typedef {{word: string, past: string, scope: string, route: string, states: string, asks?: string, danger?: boolean}} Verb */

/** @type {Record<string, Verb>} */
const VERBS = {
  cancel: { word: "Cancel", past: "Cancelled", scope: "compute.cancel", route: "cancel", states: "open", danger: true },
  retry: { word: "Retry", past: "Retried", scope: "compute.create", route: "retry", states: "failed,closed" },
  hold: { word: "Hold", past: "Held", scope: "compute.modify", route: "change", states: "pending,activated" },
  release: { word: "Release", past: "Released", scope: "compute.modify", route: "change", states: "pending" },
  priority: { word: "Priority", past: "Changed the priority of", scope: "compute.modify", route: "change", states: "open", asks: "number" },
  move: { word: "Move", past: "Moved", scope: "compute.modify", route: "change", states: "pending,activated", asks: "text" },
};

/** The verbs that the reader's token allows. @returns {string[]} */
export function useVerbs() {
  const [verbs, setVerbs] = useState(/** @type {string[]} */ ([]));
  useEffect(() => {
    get("me").then((me) => setVerbs(Object.keys(VERBS).filter((name) => [VERBS[name].scope, "ailurus.admin"].some((scope) => me.scopes.includes(scope))))).catch(() => undefined);
  }, []);
  return verbs;
}

/** Which jobs a verb means when all that match are chosen: of a filter without states those that the verb is for.
 *  @param {string} verb @param {Record<string, string>} params */
export function meant(verb, params) {
  const text = spoken(params);
  if (/\bstate\s*(:|!=|=)/.test(text)) return text;
  return `${text ? `(${text}) ` : ""}state:${VERBS[verb].states}`;
}

/** @param {{chosen: Chosen, params: Record<string, string>, verbs: string[], more: boolean, clear: () => void, all: () => void, done: () => void}} props */
export function Actions({ chosen, params, verbs, more, clear, all, done }) {
  const [verb, setVerb] = useState("");
  const [said, setSaid] = useState(/** @type {any} */ (""));
  const n = chosen.ids.size;
  useEffect(() => { if (n) setSaid(""); }, [n]);
  if (!n && !said) return null;
  const end = (/** @type {any} */ text) => { setVerb(""); setSaid(text); if (text) { clear(); done(); } };
  return html`<div class="acts" role="region" aria-label="Selected jobs">
    <span role="status">${said || (chosen.all ? "All jobs that match" : `${count(n)} selected`)}</span>
    ${n > 0 && html`
      ${more && !chosen.all && html`<button type="button" class="quiet" onClick=${all}>Select all that match</button>`}
      ${verbs.map((name) => html`<button key=${name} type="button" class=${VERBS[name].danger ? "danger" : ""} onClick=${() => setVerb(name)}>${VERBS[name].word}${VERBS[name].asks ? "…" : ""}</button>`)}`}
    <button type="button" class="quiet" onClick=${() => { clear(); setSaid(""); }} aria-label=${n ? "Clear the selection" : "Close"}>×</button>
    ${verb && html`<${Question} name=${verb} chosen=${chosen} params=${params} end=${end} />`}
  </div>`;
}

/** @param {{name: string, chosen: Chosen, params: Record<string, string>, end: (said: any) => void}} props */
export function Question({ name, chosen, params, end }) {
  const verb = VERBS[name];
  const box = useRef(/** @type {HTMLDialogElement | null} */ (null));
  const field = useRef(/** @type {HTMLInputElement | null} */ (null));
  const query = chosen.all ? meant(name, params) : "";
  const [counted, setCounted] = useState(/** @type {any} */ (chosen.all ? null : { jobs: chosen.ids.size }));
  const [error, setError] = useState(/** @type {any} */ (null));
  const [at, setAt] = useState(/** @type {number | null} */ (null));
  useEffect(() => {
    if (!box.current?.open) box.current?.showModal();
    if (query) get("jobs/count", { query }).then(setCounted).catch(setError);
  }, []);
  const act = async (/** @type {Event} */ event) => {
    event.preventDefault();
    setAt(0);
    /** @type {Record<string, any>} */
    const ask = { request_id: fresh(), ...(query ? { query, last: counted.last, at: counted.at, jobs: counted.jobs } : { job_ids: [...chosen.ids] }) };
    if (verb.route === "change") ask.verb = name;
    if (name === "priority") ask.priority = Number(field.current?.value ?? 0);
    if (name === "move") ask.queue = field.current?.value.trim() ?? "";
    try {
      for (;;) {
        const answer = await post(`jobs/${verb.route}-many`, ask);
        setAt(answer.done);
        if (!answer.ended) continue;
        const kept = answer.kept ? `; ${jobs(answer.kept)} stayed as they were${answer.reasons.length ? `: ${answer.reasons.join("; ")}` : ""}` : "";
        const text = `${verb.past} ${jobs(answer.done)}${kept}.`;
        end(answer.undo ? html`${text} <${Undo} action=${answer.action} n=${answer.undo} />` : text);
        return;
      }
    } catch (fault) {
      setAt(null);
      setError(fault);
    }
  };
  const busy = at !== null;
  const owners = counted?.owners > 1 ? ` of ${count(counted.owners)} users` : "";
  const states = counted?.states ? Object.entries(counted.states).map(([state, n]) => `${count(Number(n))} ${state}`).join(", ") : "";
  return html`<dialog ref=${box} onClose=${() => !busy && end("")} aria-label=${`${verb.word} jobs`}>
    <form onSubmit=${act}>
      <h2>${counted ? `${verb.word} ${counted.cut ? "at least " : ""}${jobs(counted.jobs)}${owners}?` : "Counting…"}</h2>
      ${states && html`<p class="note">${states}. Jobs that are submitted from now on are not meant.</p>`}
      ${verb.asks && html`<p><label>${name === "move" ? "To the queue" : "Higher goes first; new jobs have 0"}
        <input ref=${field} type=${verb.asks} name="to" required=${name === "priority"} list=${name === "move" ? "queues" : undefined} min="-1000000" max="1000000" /></label>
        <datalist id="queues">${(overview.value?.queues ?? []).map((/** @type {any} */ queue) => html`<option key=${queue.name} value=${queue.name}></option>`)}</datalist></p>`}
      <${Trouble} error=${error} />
      <p class="actions"><button class=${verb.danger ? "danger" : "primary"} disabled=${busy || !counted?.jobs}>${busy ? `${count(at)} done…` : verb.word}</button>
        <button type="button" disabled=${busy} onClick=${() => end("")}>Leave them</button></p>
    </form></dialog>`;
}

/** Brings back what a cancellation stopped that waited. @param {{action: number, n: number}} props */
function Undo({ action, n }) {
  const [said, setSaid] = useState("");
  const act = async () => {
    setSaid("Bringing them back…");
    try {
      let answer;
      do answer = await post("jobs/undo", { action }); while (!answer.ended);
      setSaid(`${jobs(answer.done)} submitted anew.`);
    } catch (fault) {
      setSaid(/** @type {any} */ (fault).message ?? String(fault));
    }
  };
  return said ? html`<span>${said}</span>` : html`<button type="button" onClick=${act} title="Within 15 minutes">Undo for ${jobs(n)} that waited</button>`;
}

const jobs = (/** @type {number} */ n) => `${count(n)} ${n === 1 ? "job" : "jobs"}`;

/** An id for a request; `randomUUID` wants a secure page. */
export const fresh = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
