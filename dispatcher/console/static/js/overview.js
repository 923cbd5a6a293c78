// The whole system at a glance: what waits, runs and ends; who serves it; what is wrong.

import { useEffect, useState } from "preact/hooks";
import { get } from "./api.js";
import { GROUPS, count, grouped, short, statesOf } from "./format.js";
import { history, listen, now, overview } from "./live.js";
import { html, Ago, Bar, Card, Empty, JobLink, Spark, State } from "./parts.js";
import { link } from "./query.js";
import { alike } from "./rows.js";
import { useJobs } from "./useJobs.js";
import { QueueTable } from "./queues.js";
import { Slots } from "./pilots.js";

export function Overview() {
  const seen = overview.value;
  const [workers, setWorkers] = useState(/** @type {any[]} */ ([]));
  useEffect(() => listen("workers", (data) => setWorkers(data.workers)), []);
  const latest = useJobs({}, 8);
  const failed = useFailures(seen?.states.failed ?? 0);
  if (!seen) return html`<div class="loading">Loading…</div>`;
  const sums = grouped(seen.states);
  const all = Object.values(sums).reduce((a, b) => a + b, 0);
  if (!all && !workers.length)
    return html`<h1>Overview</h1><${Empty} command="dispatcher submit job.yaml">Nothing here yet. Submit a first job and watch it arrive:</${Empty}>`;
  return html`
    <h1 class="unseen">Overview</h1>
    <div class="tiles">
      <${Tile} title="Waiting" group="waiting" n=${sums.waiting + sums.blocked} series="waiting" to=${`${statesOf("waiting")},${statesOf("blocked")}`}
        note=${sums.blocked ? `${short(sums.blocked)} for other jobs` : oldest(seen.queues)} />
      <${Tile} title="Running" group="running" n=${sums.running + sums.staging + sums.reporting} series="running"
        to=${["staging", "running", "reporting"].map(statesOf).join(",")}
        note=${sums.staging + sums.reporting ? `${short(sums.staging)} staging in, ${short(sums.reporting)} reporting` : `on ${short(workers.length)} pilots`} />
      <${Tile} title="Finished" group="finished" n=${sums.finished} series="finished" to="finished" note=${`${rate(seen.finished_per_min)} a minute`} />
      <${Tile} title="Failed" group="failed" n=${sums.failed} series="failed" to="failed" note=${`${rate(seen.failed_per_min)} a minute`} />
    </div>
    <section class="river" aria-label="All jobs by state">
      <${Bar} label="All jobs" parts=${GROUPS.map((group) => [group, sums[group]])} />
      <ul class="legend">${GROUPS.filter((group) => sums[group]).map((group) => html`
        <li key=${group}><a href=${link({ page: "jobs", params: { state: statesOf(group) } })}><i data-group=${group}></i>${group} <b>${count(sums[group])}</b></a></li>`)}
      </ul>
    </section>
    <${Problems} seen=${seen} workers=${workers} failed=${failed} />
    <div class="columns">
      <${Card} title="Queues" note=${html`<a href=${link({ page: "queues" })}>all</a>`}><${QueueTable} queues=${seen.queues.slice(0, 8)} /></${Card}>
      <${Card} title="Pilots" note=${html`<a href=${link({ page: "pilots" })}>${count(workers.length)} alive</a>`}>
        ${workers.length ? html`<${Slots} workers=${workers} />` : html`<p class="dim">No pilot is registered. <code>pilot --url URL --queue NAME</code> starts one.</p>`}
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

/** @param {any[]} queues */
function oldest(queues) {
  const since = Math.min(...queues.map((queue) => queue.oldest_waiting ?? Infinity));
  return since === Infinity ? "nothing in the queues" : html`oldest for <${Ago} at=${since} />`;
}

/** @param {{title: string, group: string, n: number, note: any, series: string, to: string}} props */
const Tile = ({ title, group, n, note, series, to }) => html`
  <a class="tile" data-group=${group} href=${link({ page: "jobs", params: { state: to } })}>
    <span class="name">${title}</span><strong data-count=${group}>${short(n)}</strong><span class="note">${note}</span>
    <${Spark} tone=${group} label=${`${title} since this page opened`} values=${history.value.map((/** @type {any} */ point) => point[series])} />
  </a>`;

/** The latest failures, asked for anew when their number changes. @param {number} failed */
function useFailures(failed) {
  const [rows, setRows] = useState(/** @type {any[]} */ ([]));
  useEffect(() => {
    if (!failed) return setRows([]);
    const later = setTimeout(() => get("jobs", { state: "failed", limit: 200 }).then((page) => setRows(page.jobs), () => undefined), 500);
    return () => clearTimeout(later);
  }, [failed]);
  return rows;
}

const SILENT_S = 120;

/** What somebody should look at, worst first. @param {{seen: any, workers: any[], failed: any[]}} props */
function Problems({ seen, workers, failed }) {
  /** @type {{key: string, title: any, note: any, to: string}[]} */
  const found = [];
  for (const queue of seen.queues) {
    const waiting = grouped(queue.states).waiting;
    if (waiting && !queue.workers)
      found.push({
        key: `queue ${queue.name}`, to: link({ page: "queues" }), note: html`oldest for <${Ago} at=${queue.oldest_waiting} />`,
        title: html`<b>${queue.name || "any queue"}</b>: ${count(waiting)} ${waiting === 1 ? "job waits" : "jobs wait"} and no pilot serves it`,
      });
  }
  const silent = workers.filter((worker) => worker.last_heard && now.value - worker.last_heard > SILENT_S);
  if (silent.length)
    found.push({ key: "silent", to: link({ page: "pilots" }), title: `${silent.length} ${silent.length === 1 ? "pilot is" : "pilots are"} silent`, note: html`longest for <${Ago} at=${Math.min(...silent.map((w) => w.last_heard))} />` });
  for (const group of alike(failed.filter((row) => now.value - row.changed < 86_400)).slice(0, 4))
    found.push({
      key: `${group.code} ${group.text}`, title: html`<b>${group.code || "failed"}</b> ${group.text}`,
      note: `${count(group.jobs.length)} ${group.jobs.length === 1 ? "job" : "jobs"}`,
      to: group.jobs.length === 1 ? link({ id: group.jobs[0].job_id }) : link({ page: "jobs", params: { state: "failed", code: String(group.code || "") } }),
    });
  if (!found.length) return html`<p class="well"><i></i>No problems: every queue is served, no pilot is silent, nothing failed today.</p>`;
  return html`<${Card} title="Problems" class="problems" note=${String(found.length)}>
    <ul>${found.map(({ key, title, note, to }) => html`<li key=${key}><a href=${to}><span>${title}</span><span class="note">${note}</span></a></li>`)}</ul>
  </${Card}>`;
}
