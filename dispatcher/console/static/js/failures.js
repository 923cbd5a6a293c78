// What went wrong, where, how often and whose fault it is; each kind leads to exactly its jobs.

import { useEffect, useState } from "preact/hooks";
import { get } from "./api.js";
import { count } from "./format.js";
import { overview } from "./live.js";
import { html, Ago, Empty, Trouble } from "./parts.js";
import { link } from "./query.js";

const FAULTS = ["payload", "input", "site", "node", "us", "unknown"];

/** @param {{params: Record<string, string>}} props */
export function Failures({ params }) {
  const [seen, setSeen] = useState(/** @type {any} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  const { fault = "", site = "" } = params;
  const failed = overview.value?.states.failed ?? 0;
  // asked again when another job has failed, at most once a second
  useEffect(() => {
    const planned = setTimeout(() => get("failures", { fault, site }).then((answer) => { setSeen(answer); setError(null); }).catch(setError), seen ? 1000 : 0);
    return () => clearTimeout(planned);
  }, [fault, site, failed]);
  const chip = (/** @type {string} */ key, /** @type {string} */ value) => {
    const on = params[key] === value;
    return html`<a key=${key + value} class="chip" aria-current=${on ? "true" : undefined} href=${link({ page: "failures", params: { ...params, [key]: on ? "" : value } })}>${value}</a>`;
  };
  return html`<div class="heading"><h1>Failures</h1>${seen && html`<span class="note">${count(seen.jobs)} jobs of ${count(seen.kinds.length + seen.more)} kinds</span>`}</div>
    <div class="filters" role="group" aria-label="Whose fault">${FAULTS.map((one) => chip("fault", one))}${site && chip("site", site)}</div>
    <${Trouble} error=${error} />
    ${seen && (seen.kinds.length ? html`<section class="card"><${Kinds} kinds=${seen.kinds} params=${params} /></section>` : html`<${Empty}>Nothing failed${fault || site ? " like that" : ""}.</${Empty}>`)}
    ${seen?.more > 0 && html`<p class="note">and ${count(seen.more)} more kinds</p>`}
    ${seen?.cells?.length > 1 && html`<section class="card"><h2>Codes and sites</h2><${Matrix} cells=${seen.cells} /></section>`}`;
}

/** How many failed with a code at a site, the worst of both first; each number leads to its jobs.
 *  @param {{cells: any[]}} props */
function Matrix({ cells }) {
  const worst = (/** @type {string} */ key) => {
    const sums = new Map();
    for (const cell of cells) sums.set(cell[key], (sums.get(cell[key]) ?? 0) + cell.jobs);
    return [...sums].sort((one, other) => other[1] - one[1]);
  };
  const sites = worst("site").map(([site]) => site);
  const jobs = new Map(cells.map((cell) => [`${cell.code} ${cell.site}`, cell.jobs]));
  const those = (/** @type {number} */ code, /** @type {string} */ site) => link({ page: "jobs", params: { query: `state:failed code:${code}${site && ` site:"${site}"`}` } });
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Failed jobs by code and site"><table class="plain">
    <thead><tr><th class="n">Code</th>${sites.map((site) => html`<th key=${site} class="n">${site || "none"}</th>`)}<th class="n">All</th></tr></thead>
    <tbody>${worst("code").map(([code, all]) => html`<tr key=${code}><th class="n">${code || "–"}</th>
      ${sites.map((site) => { const n = jobs.get(`${code} ${site}`); return html`<td key=${site} class="n">${n && (site ? html`<a href=${those(code, site)}>${count(n)}</a>` : count(n))}</td>`; })}
      <td class="n"><a href=${those(code, "")}>${count(all)}</a></td></tr>`)}</tbody></table></div>`;
}

/** @param {{kinds: any[], params: Record<string, string>}} props */
const Kinds = ({ kinds, params }) => html`<div class="scroll" tabindex="0" role="region" aria-label="Table of failures"><table class="plain">
  <thead><tr><th class="n">Jobs</th><th class="n">Code</th><th>Fault</th><th>Site</th><th class="grow">Diagnosis</th><th class="n wide">First</th><th class="n">Last</th></tr></thead>
  <tbody>${kinds.map((row) => html`<tr key=${row.kind}>
    <td class="n"><a href=${link({ page: "jobs", params: { kind: String(row.kind) } })} aria-label=${`Show these ${row.jobs} jobs`}>${count(row.jobs)}</a></td>
    <td class="n">${row.code || "–"}</td><td>${row.fault}</td>
    <td>${row.site ? html`<a href=${link({ page: "failures", params: { ...params, site: row.site } })}>${row.site}</a>` : html`<i class="dim">none</i>`}</td>
    <td class="grow"><span class="fault">${row.diagnosis || "no diagnosis"}</span></td>
    <td class="n wide"><${Ago} at=${row.first} /></td><td class="n"><${Ago} at=${row.last} /></td></tr>`)}</tbody></table></div>`;
