// Queues: what waits in each against what serves it.

import { count, grouped } from "./format.js";
import { overview } from "./live.js";
import { html, Ago, Bar, Empty } from "./parts.js";
import { link } from "./query.js";
import { Sites } from "./sites.js";

export function Queues() {
  const queues = overview.value?.queues ?? [];
  const sites = overview.value?.sites ?? [];
  return html`<div class="heading"><h1>Queues</h1></div>
    ${queues.length ? html`<section class="card"><${QueueTable} queues=${queues} /></section>`
      : html`<${Empty} command="dispatcher submit job.yaml">A queue exists as soon as a job names it:</${Empty}>`}
    <${Sites} sites=${sites} />`;
}

const SHOWN = ["blocked", "waiting", "staging", "running", "reporting"];

/** @param {{queues: any[]}} props */
export const QueueTable = ({ queues }) => {
  const rows = queues.map((queue) => ({ ...queue, sums: grouped(queue.states) }));
  const most = Math.max(1, ...rows.map(({ sums }) => SHOWN.reduce((all, group) => all + sums[group], 0)));
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Table of queues"><table class="plain">
    <thead><tr><th>Queue</th><th class="grow">Demand</th><th class="n">Waiting</th><th class="n">Running</th><th class="n">Pilots</th><th class="n wide">Done</th><th class="n wide">Failed</th><th class="n">Oldest</th></tr></thead>
    <tbody>${rows.map(({ name, sums, workers, sites, troubles, oldest_waiting: oldest }) => html`
      <tr key=${name}>
        <th scope="row"><a href=${link({ page: "jobs", params: { queue: name } })}>${name || "any queue"}</a>${sites?.length ? html`<div class="note">${sites.join(", ")}</div>` : ""}${troubles?.map((/** @type {string} */ text) => html`<div key=${text} class="note late fault">${text}</div>`)}</th>
        <td class="grow"><${Bar} label=${`Queue ${name}`} total=${most} parts=${SHOWN.map((group) => [group, sums[group]])} /></td>
        <td class="n">${count(sums.waiting + sums.blocked)}</td>
        <td class="n">${count(sums.running + sums.staging + sums.reporting)}</td>
        <td class=${`n${sums.waiting && !workers ? " late" : ""}`}>${count(workers)}${sums.waiting && !workers ? html`<span class="unseen"> (nobody serves it)</span>` : ""}</td>
        <td class="n wide">${count(sums.finished)}</td>
        <td class="n wide">${count(sums.failed)}</td>
        <td class="n"><${Ago} at=${oldest} /></td>
      </tr>`)}</tbody></table></div>`;
};
