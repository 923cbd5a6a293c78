// What was submitted together: a list with a bar each, and a page of one, to wait, cancel and try again.

import { useState } from "preact/hooks";
import { Question, fresh, useVerbs } from "./act.js";
import { get, post } from "./api.js";
import { count } from "./format.js";
import { html, Ago, Bar, Empty, Pages, Trouble, useLive } from "./parts.js";
import { link } from "./query.js";

const PARTS = ["finished", "failed", "cancelled", "running", "waiting"];
const STATES = { finished: "finished", failed: "failed", cancelled: "cancelled,closed", running: "sent,starting,running,holding", waiting: "pending,activated" };

/** @param {{params: Record<string, string>}} props */
export function Submissions({ params }) {
  const { open = "", user = "", label = "", name = "", before = "" } = params;
  const { seen, error } = useLive(() => get("submissions", { open, user, label, name, before, limit: 50 }), JSON.stringify([open, user, label, name, before]));
  const rows = seen?.submissions ?? [];
  const chip = (/** @type {string} */ key, /** @type {string} */ value, /** @type {string} */ text) => {
    const on = (params[key] ?? "") === value;
    return html`<a key=${key} class="chip" aria-current=${on ? "true" : undefined} href=${link({ page: "submissions", params: { ...params, before: "", [key]: on ? "" : value } })}>${text}</a>`;
  };
  return html`<div class="heading"><h1>Submissions</h1></div>
    <div class="filters" role="group" aria-label="Filter">${chip("open", "true", "not ended")}
      ${["user", "label", "name"].filter((key) => params[key]).map((key) => chip(key, params[key], `${key}: ${params[key]}`))}</div>
    <${Trouble} error=${error} />
    ${seen && (rows.length ? html`<section class="card"><${Rows} rows=${rows} params=${params} /></section>`
      : html`<${Empty} command="dispatcher submit jobs.yaml --name sweep">${Object.keys(params).length ? "No submission is like that." : "What is submitted together is one line here:"}</${Empty}>`)}
    ${seen && html`<${Pages} place=${{ page: "submissions", params }} name="before" next=${seen.next ?? null} />`}`;
}

/** @param {{row: any}} props */
const Progress = ({ row }) => row.parts
  ? html`<${Bar} label=${`Submission ${row.submission}`} total=${row.jobs} parts=${PARTS.map((part) => [part, row.parts[part] ?? 0])} />`
  : html`<span class="dim">see its page</span>`;

/** @param {{rows: any[], params: Record<string, string>}} props */
const Rows = ({ rows, params }) => html`<div class="scroll" tabindex="0" role="region" aria-label="Table of submissions"><table class="plain">
  <thead><tr><th class="n wide">Number</th><th>Name</th><th class="grow">Progress</th><th class="n">Jobs</th><th class="n wide">Finished</th><th class="n wide">Failed</th><th class="wide">User</th><th class="n">Submitted</th></tr></thead>
  <tbody>${rows.map((row) => html`<tr key=${row.submission}>
    <td class="n wide">${row.submission}</td>
    <th scope="row"><a href=${link({ page: "submission", id: row.submission })}>${row.name || "no name"}</a>
      <div>${Object.entries(row.labels ?? {}).map(([key, value]) => html`<a key=${key} class="note" href=${link({ page: "submissions", params: { ...params, before: "", label: `${key}=${value}` } })}>${key}=${value}</a> `)}</div></th>
    <td class="grow"><${Progress} row=${row} /></td>
    <td class="n">${count(row.jobs)}</td>
    <td class="n wide">${count(row.parts?.finished ?? 0)}</td><td class="n wide">${count(row.parts?.failed ?? 0)}</td>
    <td class="wide">${row.user}</td><td class="n"><${Ago} at=${row.made} /></td></tr>`)}</tbody></table></div>`;

/** @param {{id: number, go: (to: any) => void}} props */
export function Submission({ id, go }) {
  const load = () => get("submission", { submission: id });
  const { seen, error, set } = useLive(load, String(id));
  const verbs = useVerbs();
  const [asking, setAsking] = useState(false);
  const [said, setSaid] = useState(/** @type {any} */ (""));
  const [fault, setFault] = useState(/** @type {any} */ (null));
  if (!seen) return html`<div class="heading"><h1>Submission ${id}</h1></div><${Trouble} error=${error} />`;
  const { row, retried_as: later = [], acts = [] } = seen;
  const parts = row.parts ?? {};
  const query = `submission:${row.submission}`;
  const again = (/** @type {boolean} */ whole) => post("submissions/retry", { submission: row.submission, request_id: fresh(), whole })
    .then((answer) => go({ page: "submission", id: answer.submission }), setFault);
  const number = (/** @type {number} */ one) => html`<a key=${one} href=${link({ page: "submission", id: one })}>${one}</a> `;
  return html`<div class="heading job"><p class="crumb"><a href="#/submissions">Submissions</a> / <span class="num">${row.submission}</span></p>
      <h1>${row.name || `Submission ${row.submission}`}</h1>
      <div class="actions">
        ${!row.ended && verbs.includes("cancel") && html`<button type="button" class="danger" onClick=${() => setAsking(true)}>Cancel…</button>`}
        ${parts.failed > 0 && verbs.includes("retry") && html`<button type="button" onClick=${() => again(false)} title="And what depends on that">Retry what failed</button>`}
        ${row.ended && verbs.includes("retry") && html`<button type="button" onClick=${() => again(true)}>Restart all of it</button>`}</div></div>
    <p class="subject"><span>${count(row.jobs)} jobs of <b>${row.user}</b>${row.by !== row.user && html`, sent by ${row.by}`}</span>
      <span>submitted <${Ago} at=${row.made} past=${true} /></span>
      ${Object.entries(row.labels ?? {}).map(([key, value]) => html`<a key=${key} href=${link({ page: "submissions", params: { label: `${key}=${value}` } })}>${key}=${value}</a>`)}
      ${row.retry_of && html`<span>tries ${number(row.retry_of)} again</span>`}
      ${later.length > 0 && html`<span>tried again as ${later.map(number)}</span>`}</p>
    <p role="status">${said}</p><${Trouble} error=${fault ?? error} />
    <section class="card river" aria-label="Progress"><${Progress} row=${row} />
      <div class="filters">${PARTS.map((part) => html`<a key=${part} class="chip" data-group=${part} href=${link({ page: "jobs", params: { query: `${query} state:${STATES[/** @type {keyof STATES} */ (part)]}` } })}><i data-group=${part}></i>${part}<b>${count(parts[part] ?? 0)}</b></a>`)}
        <a class="chip" href=${link({ page: "jobs", params: { query } })}>all its jobs</a></div></section>
    ${acts.length > 0 && html`<section class="card" aria-label="What was done to it"><h2>What was done to it</h2><div class="scroll" tabindex="0" role="region" aria-label="Table of actions"><table class="plain">
      <thead><tr><th>What</th><th class="n">Jobs</th><th>By</th><th class="n">When</th></tr></thead>
      <tbody>${acts.map((/** @type {any} */ one) => html`<tr key=${one.action}><th scope="row">${one.verb}</th><td class="n">${count(one.jobs)}</td><td>${one.by}</td><td class="n"><${Ago} at=${one.at} /></td></tr>`)}</tbody></table></div></section>`}
    ${asking && html`<${Question} name="cancel" chosen=${{ ids: new Set(), all: true }} params=${{ query }}
      end=${(/** @type {any} */ text) => { setAsking(false); setSaid(text); load().then(set, setFault); }} />`}`;
}
