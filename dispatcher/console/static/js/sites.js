// Sites: what each edge last decided, and the limit that binds.

import { count } from "./format.js";
import { html, Ago, Card } from "./parts.js";

/** @param {{sites: any[]}} props */
export const Sites = ({ sites }) => sites.length > 0 && html`
  <${Card} title="Sites" class="sites" note="why each has the pilots it has">
    ${sites.map((site) => html`<${Site} key=${site.site} ...${site} />`)}</${Card}>`;

const PHASES = ["queued", "starting", "active", "draining"];

/** @param {{site: string, online: boolean, heard: boolean, queues: string[], workers: Record<string, number>, word: any, excluded: string[]}} props */
function Site({ site, online, heard, queues, workers, word, excluded }) {
  const there = PHASES.filter((phase) => workers[phase]).map((phase) => `${count(workers[phase])} ${phase}`);
  return html`<article class="site" aria-label=${`Site ${site}`}>
    <h3>${site} <span class=${`note${heard ? "" : " late"}`}>${!heard ? "its edge is silent" : online ? "online" : "paused"}</span></h3>
    <p class="note">${queues.join(", ")} · ${there.join(", ") || "no pilots"}</p>
    ${word && html`<p>${word.sentence} <span class="note"><${Ago} at=${word.at} /></span></p>
      <details><summary>every limit</summary>
        <table class="plain"><thead><tr><th>Limit</th><th class="n">Room for</th><th>Because</th></tr></thead>
          <tbody>${(word.bounds ?? []).map((/** @type {any} */ bound) => html`<tr key=${bound.name}>
            <th scope="row">${bound.name === word.binding ? html`<b>${bound.name}</b>` : bound.name}</th>
            <td class="n">${count(Math.max(0, bound.room))}</td><td>${bound.why}</td></tr>`)}</tbody></table>
        ${(word.notes ?? []).map((/** @type {string} */ note) => html`<p class="note">${note}</p>`)}
      </details>`}
    ${excluded.length > 0 && html`<p class="late">Nodes that get no jobs: ${excluded.join(", ")}</p>`}
  </article>`;
}
