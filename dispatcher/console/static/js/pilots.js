// Pilots: each with what it holds, what it has left, and how long it has been silent.

import { useEffect, useState } from "preact/hooks";
import { count, duration, megabytes } from "./format.js";
import { listen, now, overview } from "./live.js";
import { html, Ago, Empty, JobLink } from "./parts.js";
import { link } from "./query.js";

const LATE_S = 60;

export function Pilots() {
  const [seen, setSeen] = useState(/** @type {{workers: any[], total: number} | null} */ (null));
  useEffect(() => listen("workers", setSeen), []);
  if (!seen) return html`<div class="heading"><h1>Pilots</h1></div><div class="loading">Loading…</div>`;
  const { workers, total } = seen;
  const sums = overview.value?.pilots;
  return html`<div class="heading"><h1>Pilots</h1>
      ${sums && workers.length > 0 && html`<p class="note">${count(sums.alive)} alive, ${count(sums.used)} of ${count(sums.cores)} cores in use${sums.silent ? `, ${count(sums.silent)} silent` : ""}</p>`}</div>
    ${total > workers.length && html`<p class="note cut" role="note">These are the newest ${count(workers.length)} of ${count(total)}; <code>dispatcher workers</code> lists more.</p>`}
    ${!workers.length
      ? html`<${Empty} command="pilot --url URL --queue NAME --token-file FILE">No pilot is alive. An edge starts them on demand; by hand it is:</${Empty}>`
      : html`<div class="pilots">${workers.map((worker) => html`<${Pilot} key=${worker.worker_id} worker=${worker} />`)}</div>`}`;
}

/** @param {{worker: any}} props */
function Pilot({ worker }) {
  const { jobs } = worker;
  const total = together(worker.total), room = together(worker.room);
  const late = worker.last_heard && now.value - worker.last_heard > LATE_S;
  return html`<article class="card pilot" aria-label=${`Pilot ${worker.worker_id}`}>
    <header><h2><a href=${link({ page: "worker", id: worker.worker_id })}>${worker.host || `worker ${worker.worker_id}`}</a>${total.nodes > 1 ? ` and ${count(total.nodes - 1)} more` : ""}</h2><span class="phase" data-phase=${worker.phase}>${worker.phase}</span></header>
    <p class=${`pulse${late ? " late" : ""}`}><i key=${worker.last_heard}></i>heartbeat <${Ago} at=${worker.last_heard} limit=${LATE_S} />${late ? " ago: silent" : ""}</p>
    <${Cells} total=${total.cores} used=${Math.max(0, total.cores - room.cores)} />
    <${Meter} name="cores" used=${total.cores - room.cores} total=${total.cores} show=${count} />
    <${Meter} name="memory" used=${total.memory_mb - room.memory_mb} total=${total.memory_mb} show=${megabytes} />
    <${Meter} name="disk" used=${total.disk_mb - room.disk_mb} total=${total.disk_mb} show=${megabytes} />
    ${total.gpus > 0 && html`<${Meter} name="GPUs" used=${total.gpus - room.gpus} total=${total.gpus} show=${count} />`}
    <dl class="facts">
      <div><dt>worker</dt><dd class="num">${worker.worker_id}</dd></div>
      <div><dt>queue</dt><dd>${worker.queue}</dd></div>
      ${worker.site && html`<div><dt>site</dt><dd>${worker.site}</dd></div>`}
      ${worker.batch_id && html`<div><dt>batch id</dt><dd>${worker.batch_id}</dd></div>`}
      ${worker.registered > 0 && html`<div><dt>since</dt><dd><${Ago} at=${worker.registered} /></dd></div>`}
      ${worker.room.seconds_left !== null && worker.room.seconds_left !== undefined && html`<div><dt>time left</dt><dd>${duration(worker.room.seconds_left - Math.max(0, now.value - worker.last_heard))}</dd></div>`}
      ${worker.version && html`<div><dt>version</dt><dd>${worker.version}</dd></div>`}
    </dl>
    ${worker.diagnosis && html`<p class="note">${worker.diagnosis}</p>`}
    <p class="held">${jobs.length ? html`${jobs.length === 1 ? "job " : `${count(jobs.length)} jobs: `}${jobs.slice(0, 12).map((/** @type {number} */ id) => html`<${JobLink} key=${id} id=${id} /> `)}${jobs.length > 12 ? "…" : ""}` : html`<span class="dim">idle: no job held</span>`}</p>
  </article>`;
}

/** @param {{name: string, used: number, total: number, show: (n: number) => string}} props */
const Meter = ({ name, used, total, show }) => total > 0 && html`
  <div class="meter"><span>${name}</span>
    <div class="gauge" role="meter" aria-label=${`${name} in use`} aria-valuemin="0" aria-valuemax=${total} aria-valuenow=${Math.max(0, used)}
      aria-valuetext=${`${show(Math.max(0, used))} of ${show(total)}`}><i style=${{ width: `${Math.min(100, Math.max(0, (used / total) * 100))}%` }}></i></div>
    <span class="num">${show(Math.max(0, used))} / ${show(total)}</span></div>`;

const MOST_CELLS = 128;

/** A cell a core, filled where a job holds it. @param {{total: number, used: number}} props */
function Cells({ total, used }) {
  const shown = Math.min(total, MOST_CELLS);
  const filled = Math.round((used / Math.max(1, total)) * shown);
  return html`<div class="cells" role="img" aria-label=${`${used} of ${total} cores in use`}>
    ${Array.from({ length: shown }, (_, at) => html`<i key=${at} class=${at < filled ? "on" : ""}></i>`)}</div>`;
}

/** What a room has on all its nodes. @param {any} room */
const together = (room) => [room, ...(room.more ?? [])].reduce((sum, group) => ({
  nodes: sum.nodes + group.nodes,
  cores: sum.cores + group.cores * group.nodes,
  memory_mb: sum.memory_mb + group.memory_mb * group.nodes,
  disk_mb: sum.disk_mb + group.disk_mb * group.nodes,
  gpus: sum.gpus + (group.gpus + (group.gpu_parts ?? []).reduce((/** @type {number} */ all, /** @type {number} */ part) => all + part / 100, 0)) * group.nodes,
}), { nodes: 0, cores: 0, memory_mb: 0, disk_mb: 0, gpus: 0 });
/** @param {any} room */
const cores = (room) => together(room).cores;

/** Pilots at a glance, for the overview. @param {{workers: any[], total: number}} props */
export const Slots = ({ workers, total }) => html`<ul class="slots">${workers.slice(0, 40).map((worker) => {
  const late = worker.last_heard && now.value - worker.last_heard > LATE_S;
  return html`<li key=${worker.worker_id}>
    <span class=${`pulse${late ? " late" : ""}`}><i key=${worker.last_heard}></i><span class="host" title=${worker.host}>${worker.host || worker.worker_id}</span></span>
    <${Cells} total=${cores(worker.total)} used=${Math.max(0, cores(worker.total) - cores(worker.room))} />
    <span class="dim num"><${Ago} at=${worker.last_heard} limit=${LATE_S} /></span></li>`;
})}${Math.max(total, workers.length) > 40 && html`<li class="dim">and ${count(Math.max(total, workers.length) - Math.min(40, workers.length))} more</li>`}</ul>`;
