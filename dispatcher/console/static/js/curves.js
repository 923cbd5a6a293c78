// What the payload used over time, with what it asked for drawn in.

import { signal } from "@preact/signals";
import { bytes, duration, moment } from "./format.js";
import { html, Card } from "./parts.js";
import { nearest, peakMemory, series, thinned } from "./series.js";

const WIDE = 600;
const HIGH = 140;
/** The moment under the pointer, in all curves at once; null: none. */
const pointed = signal(/** @type {number | null} */ (null));

/** @param {{samples: any[], spec: any}} props */
export function Curves({ samples, spec }) {
  if (!samples.length) return null;
  const { at, cores, memory, disk, gpus, gpuMemory } = series(samples);
  const mb = 1048576;
  return html`<${Card} title="What it used" note=${at.length > 1 ? `over ${duration(at[at.length - 1] - at[0])}` : "one sample so far"}>
    <div class="curves">
      <${Curve} name="CPU" x=${at} y=${cores} limit=${spec.cores ?? 1} tone="running" show=${coresText} />
      <${Curve} name="Memory" x=${at} y=${memory} limit=${(spec.memory_mb ?? 2000) * mb} tone="reporting" show=${bytes} most=${peakMemory(samples)} />
      <${Curve} name="Disk" x=${at} y=${disk} limit=${(spec.disk_mb ?? 2000) * mb} tone="staging" show=${bytes} />
      ${gpus.length > 0 && html`<${Curve} name="GPUs busy" x=${at} y=${gpus} limit=${spec.gpus ?? 0} tone="running" show=${(/** @type {number} */ n) => n.toFixed(2)} />
        <${Curve} name="GPU memory" x=${at} y=${gpuMemory} limit=${0} tone="reporting" show=${bytes} most=${1048576 * Math.max(0, ...samples.map(({ usage }) => usage.max_gpu_memory_mb ?? 0))} />`}
    </div></${Card}>`;
}

/** @param {number} n */
const coresText = (n) => (n === 1 ? "1 core" : `${n.toFixed(n < 10 ? 2 : 0).replace(/\.00$/, "")} cores`);

/** @param {{name: string, x: number[], y: (number | null)[], limit: number, tone: string, show: (n: number) => string, most?: number}} props
 *  `limit`: 0 if there is none; `most`: the peak, where it is known better than by the samples */
function Curve({ name, x, y, limit, tone, show, most = 0 }) {
  const known = y.filter((value) => value !== null);
  const peak = most || Math.max(0, ...known);
  const top = Math.max(peak, limit, ...known) * 1.12 || 1;
  const [from, to] = [x[0], Math.max(x[x.length - 1], x[0] + 1)];
  const px = (/** @type {number} */ at) => ((at - from) / (to - from)) * WIDE;
  const py = (/** @type {number} */ value) => HIGH - (value / top) * HIGH;
  const points = thinned(x, y, WIDE).map(([at, value]) => `${px(at).toFixed(1)},${py(value).toFixed(1)}`);
  const index = pointed.value === null ? known.length && y.lastIndexOf(known[known.length - 1]) : nearest(x, pointed.value);
  const value = y[index];
  const move = (/** @type {PointerEvent} */ event) => {
    const box = /** @type {Element} */ (event.currentTarget).getBoundingClientRect();
    pointed.value = from + ((event.clientX - box.left) / box.width) * (to - from);
  };
  const said = value === null || value === undefined ? "–" : show(value);
  return html`<figure data-group=${tone}>
    <figcaption><b>${name}</b><span class="now num" title=${moment(x[index])}>${said}</span><span class="dim">peak ${show(peak)}</span></figcaption>
    <div class="plot" onPointerMove=${move} onPointerLeave=${() => { pointed.value = null; }}>
      <svg viewBox=${`0 0 ${WIDE} ${HIGH}`} preserveAspectRatio="none" role="img" aria-label=${`${name}: ${said}, peak ${show(peak)}${limit ? `, asked for ${show(limit)}` : ""}`}>
        ${points.length > 1 && html`<path class="area" d=${`M${points[0].split(",")[0]},${HIGH} L${points.join(" L")} L${points[points.length - 1].split(",")[0]},${HIGH} Z`} /><path class="edge" d=${`M${points.join(" L")}`} />`}
        ${limit > 0 && html`<path class="limit" d=${`M0,${py(limit).toFixed(1)} H${WIDE}`} />`}
        ${pointed.value !== null && html`<path class="cursor" d=${`M${px(x[index]).toFixed(1)},0 V${HIGH}`} />`}
      </svg>
      ${limit > 0 && html`<span class="asked" style=${{ top: `${(py(limit) / HIGH) * 100}%` }}>asked for ${show(limit)}</span>`}
    </div>
    <div class="axis" aria-hidden="true">${[0, 0.25, 0.5, 0.75, 1].map((part) => html`<span key=${part}>${part ? duration((to - from) * part) : "0"}</span>`)}</div>
  </figure>`;
}
