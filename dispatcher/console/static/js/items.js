// The payloads that a job carries: in numbers, in pages, and one by one down to what it wrote.

import { useEffect, useState } from "preact/hooks";
import { get } from "./api.js";
import { bytes, count, duration, moment } from "./format.js";
import { Gantt, useLanes } from "./gantt.js";
import { html, Bar, Card, Command, Trouble } from "./parts.js";
import { link } from "./query.js";

const STATES = ["waiting", "leased", "running", "finished", "failed", "cancelled"];
const PAGE = 50;
const LAST_BYTES = 100_000; // of a stream that is shown

/** @param {{id: number, counts: any, params: Record<string, string>}} props */
export function Items({ id, counts, params }) {
  const state = STATES.includes(params.items) ? params.items : "";
  const chosen = /^\d{1,9}$/.test(params.item ?? "") ? Number(params.item) : null;
  const [list, setList] = useState({ rows: /** @type {any[]} */ ([]), next: /** @type {number | null} */ (null), error: /** @type {any} */ (null) });
  const load = (/** @type {number} */ after, /** @type {any[]} */ before) =>
    get(`jobs/${id}/items`, { state, after, limit: PAGE }).then(
      (page) => setList({ rows: [...before, ...page.items], next: page.next, error: null }),
      (error) => setList((old) => ({ ...old, error })));
  const told = STATES.map((one) => counts[one]).join();
  // again when the numbers move, as long as only the first page is open
  useEffect(() => { if (list.rows.length <= PAGE) load(-1, []); }, [id, told]);
  useEffect(() => { load(-1, []); }, [id, state]);
  const parts = STATES.map((one) => /** @type {[string, number]} */ ([group(one), counts[one]]));
  const to = (/** @type {Record<string, string>} */ more) => link({ id, params: { items: state, ...more } });
  return html`<${Card} title="Payloads" note=${noted(counts)}>
    <${Bar} parts=${parts} label="Payloads by state" total=${counts.total} />
    <p class="legend choices" role="group" aria-label="Which payloads">
      <a class="chip" href=${to({ items: "" })} aria-current=${state ? "false" : "true"}>all <b>${count(counts.total)}</b></a>
      ${STATES.filter((one) => counts[one] > 0 || one === state).map((one) => html`
        <a key=${one} class="chip" data-group=${group(one)} href=${to({ items: one })} aria-current=${state === one ? "true" : "false"}><i></i>${one} <b>${count(counts[one])}</b></a>`)}
    </p>
    ${chosen !== null && html`<${Item} key=${chosen} id=${id} index=${chosen} back=${to({})} told=${told} />`}
    <${Lanes} id=${id} />
    <div class="scroll" tabindex="0" role="region" aria-label="Table of payloads"><table class="plain"><thead>
      <tr><th class="n">Nr</th><th>Name</th><th>State</th><th class="n">Attempt</th><th>Host</th><th>Slot</th><th>Started</th><th class="n">Ran</th><th class="n">Exit</th><th class="grow">Outcome</th></tr></thead>
    <tbody>${list.rows.map((row) => html`<tr key=${row.index}>
      <th scope="row" class="n"><a href=${to({ item: row.index })}>${row.index}</a></th><td>${row.name}</td><td><${ItemState} state=${row.state} /></td>
      <td class="n">${row.attempt || "–"}</td><td>${row.host || "–"}</td><td>${row.slot}</td><td>${moment(row.started)}</td>
      <td class="n">${ran(row)}</td><td class="n">${row.exit_code ?? "–"}</td><td class="grow">${row.diagnosis}</td></tr>`)}
    </tbody></table></div>
    ${!list.rows.length && !list.error && html`<p class="dim">None.</p>`}
    ${list.next !== null && html`<p><button type="button" onClick=${() => load(/** @type {number} */ (list.next), list.rows)}>Show more</button></p>`}
    <${Trouble} error=${list.error} />
  </${Card}>`;
}

/** When they ran, on which nodes. @param {{id: number}} props */
function Lanes({ id }) {
  const [open, setOpen] = useState(false);
  const [span, zoom] = useState(/** @type {import("./gantt.js").Span | null} */ (null));
  const [seen, error] = useLanes(open ? `jobs/${id}/timeline` : "", {}, span);
  return html`<details class="over" onToggle=${(/** @type {any} */ event) => setOpen(event.currentTarget.open)}><summary>When they ran, on which nodes</summary>
    ${seen?.nodes.length > 0 ? html`<${Gantt} seen=${seen} zoom=${zoom} zoomed=${span !== null} />` : html`<p class="dim">${seen ? "None has begun." : "Loading…"}</p>`}<${Trouble} error=${error} /></details>`;
}

/** The colour of a state: those of jobs. @param {string} state */
const group = (state) => (state === "leased" ? "staging" : state);

/** @param {{state: string}} props */
const ItemState = ({ state }) => html`<span class="state" data-group=${group(state)}>${state}</span>`;

/** @param {any} counts */
const noted = (counts) => [
  counts.needed === counts.total ? "all must finish" : `${count(counts.needed)} of ${count(counts.total)} must finish`,
  counts.moved_to && html`<a href=${link({ id: counts.moved_to })}>job ${counts.moved_to}</a> goes on with them`,
].filter(Boolean).map((text, at) => html`${at ? "; " : ""}${text}`);

/** @param {any} row */
const ran = (row) => (row.started && row.ended ? duration(row.ended - row.started) : "–");

/** One payload, and the end of what it wrote. @param {{id: number, index: number, back: string, told: string}} props */
function Item({ id, index, back, told }) {
  const [seen, setSeen] = useState(/** @type {any} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  useEffect(() => {
    let current = true;
    const log = (/** @type {string} */ stream) =>
      get(`jobs/${id}/log`, { stream, item: index, offset: -LAST_BYTES }).catch(() => null);
    Promise.all([get(`jobs/${id}/item`, { index }), log("stdout"), log("stderr")]).then(
      ([item, stdout, stderr]) => current && setSeen({ item, stdout, stderr }),
      (problem) => current && setError(problem));
    return () => { current = false; };
  }, [id, index, told]);
  if (!seen) return html`<section class="answer" aria-label=${`Payload ${index}`}><${Trouble} error=${error} />${!error && "Loading…"}</section>`;
  const { item, stdout, stderr } = seen;
  const { row, spec } = item;
  const tone = row.state === "failed" ? "bad" : row.state === "finished" ? "good" : "";
  return html`<section class=${`answer item ${tone}`} aria-label=${`Payload ${index}`}>
    <p class="lead">${index} ${row.name} <${ItemState} state=${row.state} /> ${item.why}</p>
    ${item.remedy && html`<p class="remedy"><b>What helps:</b> ${item.remedy}</p>`}
    <p class="note">${[row.host && `on ${row.host}`, row.slot && `slot ${row.slot}`, row.exit_code !== null && `exit code ${row.exit_code}`,
      ran(row) !== "–" && `ran ${ran(row)}`, item.usage && `${duration(item.usage.cpu_s ?? 0)} of CPU, ${bytes(1024 * (item.usage.max_rss_kb ?? 0))}`].filter(Boolean).join(", ")}</p>
    ${(spec.command || spec.arguments?.length > 0) && html`<pre class="script" tabindex="0" aria-label="What it runs">${spec.command || spec.arguments.join(" ")}</pre>`}
    ${item.files?.length > 0 && html`<h3>Files</h3><ul class="plain" aria-label="What it left">${item.files.map((/** @type {any} */ file) => html`
      <li key=${file.name}>${file.name}, ${bytes(file.size)}: <code>${file.url}</code></li>`)}</ul>`}
    ${[["stdout", stdout], ["stderr", stderr]].map(([name, chunk]) => chunk?.text && html`
      <h3 key=${name}>${chunk.offset > 0 ? `The end of ${name}` : name}</h3><pre tabindex="0" aria-label=${name}>${chunk.text}</pre>`)}
    <p class="aside"><${Command} text=${`dispatcher show ${id}.${index}`} /> <a href=${back}>Close</a></p>
  </section>`;
}
