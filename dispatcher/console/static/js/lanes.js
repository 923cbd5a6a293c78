// The timeline drawn: a lane an attempt, every second in a colour with its name.

import { duration, moment } from "./format.js";
import { now } from "./live.js";
import { html, Card } from "./parts.js";
import { KINDS, lanes, totals } from "./timeline.js";

/** @param {{detail: any}} props */
export function Timeline({ detail }) {
  const all = lanes(detail, now.value);
  const from = detail.row.created;
  const to = Math.max(from + 0.001, ...all.flatMap((lane) => lane.segments.map((segment) => segment.to)));
  const sums = totals(all);
  const percent = (/** @type {number} */ seconds) => `${(seconds / (to - from)) * 100}%`;
  return html`<${Card} title="Where the time went" note=${duration(to - from)}>
    <div class="lanes">${all.map((lane) => html`
      <div key=${lane.attempt_nr} class="lane">
        <span class="nr">${all.length > 1 ? `attempt ${lane.attempt_nr}` : ""}</span>
        <div class="track" role="img" aria-label=${lane.segments.map((s) => `${KINDS[/** @type {keyof KINDS} */ (s.kind)]} ${duration(s.to - s.from)}`).join(", ")}>
          ${lane.segments.map((s, at) => html`<i key=${at} data-group=${s.kind} class=${s.live ? "live" : ""} style=${{ left: percent(s.from - from), width: percent(s.to - s.from) }}
            title=${`${KINDS[/** @type {keyof KINDS} */ (s.kind)]} for ${duration(s.to - s.from)}, from ${moment(s.from)}`}></i>`)}
        </div></div>`)}
    </div>
    <ul class="legend">${sums.map(([kind, seconds]) => html`<li key=${kind}><i data-group=${kind}></i>${KINDS[/** @type {keyof KINDS} */ (kind)]} <b>${duration(seconds)}</b> <span class="dim">${Math.round((seconds / (to - from)) * 100)} %</span></li>`)}</ul>
  </${Card}>`;
}
