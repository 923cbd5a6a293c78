// The whole system at a glance: what waits, runs and ends; who serves it; what is wrong.

import { useEffect, useState } from "preact/hooks";
import { GROUPS, count, grouped, short, statesOf } from "./format.js";
import { history, listen, overview } from "./live.js";
import { html, Ago, Bar, Card, Empty, JobLink, Spark, State } from "./parts.js";
import { link } from "./query.js";
import { useJobs } from "./useJobs.js";
import { QueueTable } from "./queues.js";
import { Slots } from "./pilots.js";

export function Overview() {
  const seen = overview.value;
  const [workers, setWorkers] = useState(/** @type {any[]} */ ([]));
  useEffect(() => listen("workers", (data) => setWorkers(data.workers)), []);
  const latest = useJobs({}, 8);
  if (!seen) return html`<div class="loading">Loading…</div>`;
  const sums = grouped(seen.states);
  const all = Object.values(sums).reduce((a, b) => a + b, 0);
  const { pilots, troubles } = seen;
  if (!all && !pilots.alive && !troubles.length)
    return html`<h1>Overview</h1><${Empty} command="dispatcher submit job.yaml">Nothing here yet. Submit a first job and watch it arrive:</${Empty}>`;
  return html`
    <h1 class="unseen">Overview</h1>
    <div class="tiles">
      <${Tile} title="Waiting" group="waiting" n=${sums.waiting + sums.blocked} series="waiting" to=${`${statesOf("waiting")},${statesOf("blocked")}`}
        note=${sums.blocked ? `${short(sums.blocked)} for other jobs` : oldest(seen.queues, sums.waiting)} />
      <${Tile} title="Running" group="running" n=${sums.running + sums.staging + sums.reporting} series="running"
        to=${["staging", "running", "reporting"].map(statesOf).join(",")}
        note=${sums.staging + sums.reporting ? `${short(sums.staging)} staging in, ${short(sums.reporting)} reporting` : `on ${short(pilots.alive)} pilots`} />
      <${Tile} title="Finished" group="finished" n=${sums.finished} series="finished" to="finished" note=${`${rate(seen.finished_per_min)} a minute`} />
      <${Tile} title="Failed" group="failed" n=${sums.failed} series="failed" to="failed" note=${`${rate(seen.failed_per_min)} a minute`} />
    </div>
    <section class="river" aria-label="All jobs by state">
      <${Bar} label="All jobs" parts=${GROUPS.map((group) => [group, sums[group]])} />
      <ul class="legend">${GROUPS.filter((group) => sums[group]).map((group) => html`
        <li key=${group}><a href=${link({ page: "jobs", params: { state: statesOf(group) } })}><i data-group=${group}></i>${group} <b>${count(sums[group])}</b></a></li>`)}
      </ul>
    </section>
    <${Problems} seen=${seen} />
    <div class="columns">
      <${Card} title="Queues" note=${html`<a href=${link({ page: "queues" })}>all</a>`}><${QueueTable} queues=${seen.queues.slice(0, 8)} /></${Card}>
      <${Card} title="Pilots" note=${html`<a href=${link({ page: "pilots" })}>${count(pilots.alive)} alive</a>`}>
        ${pilots.alive || workers.length ? html`<${Slots} workers=${workers} total=${pilots.alive} />` : html`<p class="dim">No pilot is registered. <code>pilot --url URL --queue NAME</code> starts one.</p>`}
      </${Card}>
    </div>
    <${Card} title="Latest jobs" note=${html`<a href=${link({ page: "jobs" })}>all</a>`}>
      <ul class="latest">${latest.rows.slice(0, 8).map((row) => html`
        <li key=${row.job_id}><${State} state=${row.state} /><${JobLink} id=${row.job_id}>${row.name}</${JobLink}><span class="dim num">${row.job_id}</span><${Ago} at=${row.changed} /></li>`)}
      </ul>
    </${Card}>`;
}

/** @param {number} perMinute */
const rate = (perMinute) => (perMinute >= 10 ? count(Math.round(perMinute)) : String(Math.round(perMinute * 10) / 10));

/** @param {any[]} queues @param {number} waiting */
function oldest(queues, waiting) {
  const since = Math.min(...queues.map((queue) => queue.oldest_waiting ?? Infinity));
  if (!waiting) return "nothing in the queues";
  return since === Infinity ? "" : html`oldest for <${Ago} at=${since} />`;
}

/** @param {{title: string, group: string, n: number, note: any, series: string, to: string}} props */
const Tile = ({ title, group, n, note, series, to }) => html`
  <a class="tile" data-group=${group} href=${link({ page: "jobs", params: { state: to } })}>
    <span class="name">${title}</span><strong data-count=${group}>${short(n)}</strong><span class="note">${note}</span>
    <${Spark} tone=${group} label=${`${title} since this page opened`} values=${history.value.map((/** @type {any} */ point) => point[series])} />
  </a>`;

/** Where a trouble is looked into. @type {Record<string, string>} */
const PAGE_OF = { "pilots-lost": "pilots", "pilots-silent": "pilots" };

/** What somebody should look at, worst first: the dispatcher says what, and counts. @param {{seen: any}} props */
function Problems({ seen }) {
  const { troubles, failures, failure_kinds: kinds } = seen;
  if (!troubles.length && !failures.length) return html`<p class="well"><i></i>No problems: every queue is served, no pilot is silent, nothing failed today.</p>`;
  return html`<${Card} title="Problems" class="problems" note=${count(troubles.length + kinds)}>
    <ul>${troubles.map((/** @type {any} */ one) => html`<li key=${one.kind + one.site + one.queues}>
        <a href=${link({ page: PAGE_OF[one.kind] ?? "queues" })}><span>${one.sentence}${one.remedy && html`<small class="remedy">${one.remedy}</small>`}</span><span class="note">${one.since && html`for <${Ago} at=${one.since} />`}</span></a></li>`)}
      ${failures.map((/** @type {any} */ row) => html`<li key=${row.kind}>
        <a href=${link({ page: "jobs", params: { kind: String(row.kind) } })}><span><b>${row.code || "failed"}</b> ${row.diagnosis || "no diagnosis"}</span><span class="note">${count(row.jobs)} ${row.jobs === 1 ? "job" : "jobs"}</span></a></li>`)}
      ${kinds > failures.length && html`<li><a href=${link({ page: "failures" })}><span>${count(kinds - failures.length)} more kinds of failures</span></a></li>`}</ul>
  </${Card}>`;
}
