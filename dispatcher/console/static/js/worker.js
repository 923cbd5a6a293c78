// One worker, after its end too: why its cores were idle, and what ran where and when.

import { useState } from "preact/hooks";
import { count, duration, moment } from "./format.js";
import { html, Ago, Bar, Card, Command, Trouble } from "./parts.js";
import { Gantt, useLanes } from "./gantt.js";
import { Nodes } from "./nodes.js";

/** Colour and words of each reason. @type {Record<string, [string, string]>} */
const REASONS = {
  busy: ["running", "held by jobs"],
  staging_in: ["staging", "inputs were staged in"],
  staging_out: ["reporting", "outputs were staged out"],
  wide: ["waiting", "kept for a job that did not fit yet"],
  payloads: ["batch", "too few payloads of a job that held them"],
  draining: ["blocked", "draining"],
  lost: ["failed", "their node was lost"],
  nothing: ["cancelled", "nothing to do"],
};

/** @param {{id: number}} props */
export function Worker({ id }) {
  const [span, zoom] = useState(/** @type {import("./gantt.js").Span | null} */ (null));
  const [seen, error] = useLanes("workers/timeline", { worker_id: id }, span);
  const head = html`<p class="crumb"><a href="#/pilots">Pilots</a> / <span class="num">${id}</span></p>`;
  if (!seen) return html`<div class="heading job">${head}<h1>Pilot ${id}</h1></div><${Trouble} error=${error} />${!error && html`<div class="loading">Loading…</div>`}`;
  const { worker, busy_core_s: busy } = seen;
  const sums = busy === null ? [] : Object.entries({ busy, ...seen.idle_core_s });
  const whole = sums.reduce((sum, [, n]) => sum + n, 0);
  const known = (/** @type {string} */ why) => REASONS[why] ?? ["cancelled", why];
  return html`<div class="heading job">${head}<h1>${worker.host || `Pilot ${id}`}</h1><span class="phase" data-phase=${worker.phase}>${worker.ending ?? worker.phase}</span></div>
    <p class="subject"><span>queue ${worker.queue}</span>${worker.site && html`<span>site ${worker.site}</span>`}${worker.batch_id && html`<span>batch id ${worker.batch_id}</span>`}
      <span>since ${moment(worker.registered)}</span><span>heard <${Ago} at=${worker.last_heard} past /></span></p>
    <${Trouble} error=${error} />
    ${worker.diagnosis && html`<p class="note">${worker.diagnosis}</p>`}
    <${Card} title="What its cores did" note=${whole > 0 ? `${duration(whole)} of core time, ${Math.round((100 * busy) / whole)} % busy` : ""}>
      ${whole > 0
        ? html`<${Bar} parts=${sums.map(([why, n]) => [known(why)[0], n])} label="Core time" />
          <ul class="legend">${sums.filter(([, n]) => n > 0).map(([why, n]) => html`<li key=${why}><i data-group=${known(why)[0]}></i>${known(why)[1]} <b>${duration(n)}</b> <span class="dim">${Math.round((100 * n) / whole)} %</span></li>`)}</ul>`
        : html`<p class="dim">Its pilot does not tell why cores were idle.</p>`}
    </${Card}>
    <${Card} title="What ran where" note=${`${duration(seen.end - seen.begin)} on ${count(seen.nodes.length)} ${seen.nodes.length === 1 ? "node" : "nodes"}`}>
      <${Gantt} seen=${seen} zoom=${zoom} zoomed=${span !== null} /></${Card}>
    <${Nodes} title="What its jobs have used so far" nodes=${seen.used ?? []} />
    <p class="aside"><${Command} text=${`dispatcher worker ${id}`} /></p>`;
}
