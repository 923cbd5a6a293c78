// What payloads use on each of several nodes, and have used so far.

import { bytes, count, duration } from "./format.js";
import { html, Card } from "./parts.js";

/** @param {{title: string, nodes: any[]}} props */
export const Nodes = ({ title, nodes }) => nodes.length > 0 && html`<${Card} title=${title}>
  <div class="scroll" tabindex="0" role="region" aria-label="Use on each node"><table class="plain"><thead><tr><th>Node</th><th class="n">CPU</th><th class="n">Memory</th><th class="n">Peak memory</th><th class="n">Processes</th><th class="n">Read</th><th class="n">Written</th><th class="n">GPUs busy</th></tr></thead>
  <tbody>${nodes.map((one) => html`<tr key=${one.node}><th scope="row">${one.node}</th><td class="n">${duration(one.cpu_s ?? 0)}</td><td class="n">${one.rss_kb ? bytes(1024 * one.rss_kb) : "–"}</td><td class="n">${bytes(1024 * (one.max_rss_kb ?? 0))}</td>
    <td class="n">${one.processes ? count(one.processes) : "–"}</td><td class="n">${bytes(one.read_bytes ?? 0)}</td><td class="n">${bytes(one.write_bytes ?? 0)}</td><td class="n">${one.gpu_s ? duration(one.gpu_s) : "–"}</td></tr>`)}</tbody></table></div></${Card}>`;
