// What ran when on which cores and GPUs: bars in lanes, a block a node. Its numbers: `lanes` of timeline.js
// are of one job, these are of a worker or of the payloads of a job.

import { useEffect, useState } from "preact/hooks";
import { get } from "./api.js";
import { GROUP, count, duration, moment } from "./format.js";
import { html, State } from "./parts.js";
import { link } from "./query.js";

const MOST_NODES = 64, MOST_ROWS = 20, AGAIN_MS = 5000;

/** @typedef {{begin: number, end: number}} Span */

/** Lanes, asked for again and again: a dispatcher that takes long for an answer is asked less often.
 *  @param {string} path blank: not yet @param {Record<string, any>} params @param {Span | null} span
 *  @returns {[any, any]} what came last, and what went wrong since */
export function useLanes(path, params, span) {
  const [state, setState] = useState({ seen: /** @type {any} */ (null), error: /** @type {any} */ (null) });
  useEffect(() => {
    let current = Boolean(path), came = false;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let again;
    const ask = async () => {
      const began = Date.now();
      // In a tab that nobody looks at, once only.
      if (!document.hidden || !came) await get(path, { ...params, ...span }).then(
        (seen) => { came = true; if (current) setState({ seen, error: null }); },
        (error) => { if (current) setState((old) => ({ seen: old.seen, error })); });
      if (current) again = setTimeout(ask, Math.max(AGAIN_MS, 20 * (Date.now() - began)));
    };
    if (current) ask();
    return () => { current = false; clearTimeout(again); };
  }, [path, ...Object.values(params), span?.begin, span?.end]);
  return [state.seen, state.error];
}

/** @param {any} bar */
const group = (bar) => (!bar.job_id ? "blocked" : bar.state === "lost" ? "failed" : GROUP[bar.state] ?? (bar.state === "leased" ? "staging" : "cancelled"));
/** @param {any} bar */
const target = (bar) => link({ id: bar.job_id, params: bar.item === undefined ? {} : { item: String(bar.item) } });
/** @param {any} bar */
const called = (bar) => (!bar.job_id ? "somebody's job" : `${bar.item === undefined ? bar.job_id : `${bar.job_id}.${bar.item}`} ${bar.name ?? ""}`.trim());

/** @param {{seen: any, zoom: (to: Span | null) => void, zoomed: boolean}} props */
export function Gantt({ seen, zoom, zoomed }) {
  const { begin, end, nodes } = seen;
  const wide = end - begin;
  const move = (/** @type {number} */ by, /** @type {number} */ factor) => {
    const middle = (begin + end) / 2 + by * wide, half = (wide * factor) / 2;
    zoom({ begin: Math.max(0, middle - half), end: middle + half });
  };
  const shown = nodes.slice(0, MOST_NODES);
  const bars = shown.flatMap((/** @type {any} */ node) => node.bars.map((/** @type {any} */ bar) => ({ node, bar })));
  bars.sort((/** @type {any} */ a, /** @type {any} */ b) => b.bar.begin - a.bar.begin);
  return html`<div class="gantt">
    <p class="actions"><button type="button" onClick=${() => move(-0.5, 1)} aria-label="Earlier">←</button><button type="button" onClick=${() => move(0.5, 1)} aria-label="Later">→</button>
      <button type="button" onClick=${() => move(0, 0.5)}>Closer</button><button type="button" onClick=${() => zoom(null)} disabled=${!zoomed}>All</button>
      <span class="note" role="status">${count(seen.runs)} ${seen.runs === 1 ? "run" : "runs"}${seen.drawn ? "" : ": too many to be drawn, so this is how many cores were in use; click to look closer"}${seen.cut ? "; there are more, which were not looked at" : ""}</span></p>
    ${shown.map((/** @type {any} */ node) => html`<${Node} key=${node.name} node=${node} seen=${seen} zoom=${zoom} />`)}
    <div class="axis" aria-hidden="true">${[0, 0.25, 0.5, 0.75, 1].map((part) => html`<span key=${part}>${part ? duration(wide * part) : moment(begin).slice(5)}</span>`)}</div>
    ${nodes.length > MOST_NODES && html`<p class="note cut">These are the first ${MOST_NODES} of ${count(nodes.length)} nodes.</p>`}
    ${bars.length > 0 && html`<details><summary>The last ${count(Math.min(MOST_ROWS, bars.length))} of ${count(bars.length)} bars as a table</summary><div class="scroll"><table class="plain"><thead><tr><th>Run</th><th>State</th><th>Node</th><th class="n">Cores</th><th>GPUs</th><th>Began</th><th class="n">Ran</th></tr></thead>
      <tbody>${bars.slice(0, MOST_ROWS).map((/** @type {any} */ { node, bar }, /** @type {number} */ at) => html`<tr key=${at}><th scope="row">${bar.job_id ? html`<a href=${target(bar)}>${called(bar)}</a>` : called(bar)}</th><td>${bar.state && html`<${State} state=${bar.state} />`}</td><td>${node.name}</td>
        <td class="n">${(bar.cores ?? []).reduce((/** @type {number} */ sum, /** @type {number[]} */ [, n]) => sum + n, 0)}</td><td>${(bar.gpus ?? []).map((/** @type {number} */ gpu) => node.gpus[gpu]).join(" ")}</td><td>${moment(bar.begin)}</td><td class="n">${duration((bar.end ?? end) - bar.begin)}</td></tr>`)}</tbody></table></div></details>`}
  </div>`;
}

/** @param {{node: any, seen: any, zoom: (to: Span) => void}} props */
function Node({ node, seen, zoom }) {
  const { begin, end, drawn } = seen;
  const wide = end - begin;
  const mean = node.used.reduce((/** @type {number} */ sum, /** @type {number} */ n) => sum + n, 0) / Math.max(1, node.used.length);
  const use = node.cores ? `${Math.round((100 * mean) / node.cores)} %` : "";
  const click = (/** @type {MouseEvent} */ event) => {
    if (event.target !== event.currentTarget && drawn) return;
    const box = /** @type {Element} */ (event.currentTarget).getBoundingClientRect();
    const at = begin + ((event.clientX - box.left) / box.width) * wide;
    zoom({ begin: at - wide / 16, end: at + wide / 16 });
  };
  const lane = node.cores > 32 ? 4 : node.cores > 8 ? 8 : 16;
  return html`<section class="node" aria-label=${`Node ${node.name}`}>
    <h3><span>${node.name || "this node"}</span><span class="dim">${count(node.cores)} ${node.cores === 1 ? "core" : "cores"}${node.gpus.length ? `, ${node.gpus.length} GPUs` : ""}, ${use} in use${node.left ? html`, <b class="late">lost</b> at ${moment(node.left).slice(11)}` : ""}</span></h3>
    <div class="field" role="group" aria-label=${`Cores of ${node.name}, ${use} in use`} style=${{ height: `${Math.min(320, Math.max(20, lane * node.cores))}px` }} onClick=${click}>
      <${Gone} from=${begin} to=${node.joined ?? begin} seen=${seen} /><${Gone} from=${node.left ?? end} to=${end} seen=${seen} />
      ${drawn ? node.bars.map((/** @type {any} */ bar, /** @type {number} */ at) => (bar.cores ?? []).map((/** @type {number[]} */ [first, n]) => html`<${Piece} key=${`${at}.${first}`} bar=${bar} seen=${seen} top=${first / node.cores} high=${n / node.cores} />`)) : html`<${Use} node=${node} />`}
    </div>
    ${drawn && node.gpus.length > 0 && html`<div class="field gpus" role="group" aria-label=${`GPUs of ${node.name}`} style=${{ height: `${12 * node.gpus.length}px` }} onClick=${click}>
      ${node.bars.map((/** @type {any} */ bar, /** @type {number} */ at) => (bar.gpus ?? []).map((/** @type {number} */ gpu) => html`<${Piece} key=${`${at}.${gpu}`} bar=${bar} seen=${seen} top=${gpu / node.gpus.length} high=${1 / node.gpus.length} on=${node.gpus[gpu]} />`))}</div>`}
  </section>`;
}

/** @param {{bar: any, seen: any, top: number, high: number, on?: string}} props */
function Piece({ bar, seen, top, high, on = "" }) {
  const { begin, end } = seen;
  const from = Math.max(begin, bar.begin), to = Math.min(end, bar.end ?? end);
  const part = (/** @type {number} */ x) => `${100 * x}%`;
  const style = { left: part((from - begin) / (end - begin)), width: part((to - from) / (end - begin)), top: part(top), height: part(high) };
  const title = `${called(bar)}${bar.state ? `, ${bar.state}` : ""}${on && `, GPU ${on}`}: ${duration((bar.end ?? end) - bar.begin)} from ${moment(bar.begin)}${bar.items ? `, ${count(bar.items)} payloads` : ""}`;
  return bar.job_id
    ? html`<a class=${bar.end ? "" : "live"} data-group=${group(bar)} style=${style} title=${title} aria-label=${title} tabindex="-1" href=${target(bar)}></a>`
    : html`<i data-group="blocked" style=${style} title=${title}></i>`;
}

/** While the node was not there. @param {{from: number, to: number, seen: any}} props */
function Gone({ from, to, seen: { begin, end } }) {
  const [a, b] = [from, to].map((at) => (Math.min(end, Math.max(begin, at)) - begin) / (end - begin));
  return b > a && html`<i class="gone" style=${{ left: `${100 * a}%`, width: `${100 * (b - a)}%`, top: 0, bottom: 0 }}></i>`;
}

/** Cores in use, as an area. @param {{node: any}} props */
function Use({ node }) {
  const step = 100 / node.used.length;
  const points = node.used.map((/** @type {number} */ n, /** @type {number} */ at) => `V${(100 - (100 * n) / Math.max(1, node.cores)).toFixed(1)}H${((at + 1) * step).toFixed(2)}`);
  return html`<svg data-group="running" viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true"><path d=${`M0,100${points.join("")}V100Z`} /></svg>`;
}
