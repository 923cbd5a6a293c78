// What jobs asked for, what they took of it, and what was for nothing.

import { get } from "./api.js";
import { count, moment } from "./format.js";
import { html, Bar, Command, Empty, Trouble, useLoaded } from "./parts.js";
import { link } from "./query.js";
import { HOUR, RANGES, asUsage, columns, coreHours, most, share } from "./sums.js";

const BY = ["user", "site", "queue"];
/** Outcomes of attempts: their colours, and what they are called. @type {Record<string, [string, string]>} */
const OUTCOMES = {
  finished: ["finished", "finished"], payload: ["failed", "payload’s fault"], input: ["batch", "input’s fault"],
  site: ["waiting", "site’s fault"], node: ["staging", "node’s fault"], us: ["reporting", "our fault"],
  unknown: ["blocked", "failed, fault unknown"], lost: ["running", "lost"], cancelled: ["cancelled", "cancelled"],
  twice: ["blocked", "done twice"],
};
/** @type {Record<string, string>} */
const PILOTS = {
  busy: "busy", nothing: "idle: no job", staging_in: "idle: inputs came", staging_out: "idle: outputs went",
  wide: "idle: kept for a wide job", draining: "idle: draining", lost: "node lost", payloads: "idle: too few payloads", other: "idle: other",
};

/** @param {{params: Record<string, string>}} props */
export function Usage({ params }) {
  const { by = "user", range = "7d", user = "", site = "", queue = "", label = "" } = params;
  const days = RANGES[/** @type {keyof RANGES} */ (range)] ?? 7;
  const [seen, error] = useLoaded(
    () => get("usage", { by, user, site, queue, label, since: String(Date.now() / 1000 - days * 86400) }),
    [by, range, user, site, queue, label],
  );
  const chip = (/** @type {string} */ key, /** @type {string} */ value, /** @type {string} */ now) => html`
    <a key=${key + value} class="chip" aria-current=${now === value ? "true" : undefined} href=${link({ page: "usage", params: { ...params, [key]: value } })}>${value}</a>`;
  const only = Object.entries({ user, site, queue, label }).filter(([, value]) => value);
  return html`<div class="heading"><h1>Usage</h1>${seen && html`<span class="note">attempts that ended since ${moment(seen.since)}</span>`}</div>
    <div class="filters" role="group" aria-label="By what">${BY.map((one) => chip("by", one, by))}${by.startsWith("label:") && chip("by", by, by)}</div>
    <div class="filters" role="group" aria-label="Since when">${Object.keys(RANGES).map((one) => chip("range", one, range))}
      ${only.map(([key, value]) => html`<a key=${key} class="chip" aria-current="true" title="Show all" href=${link({ page: "usage", params: { ...params, [key]: "" } })}>${key} ${value} ×</a>`)}</div>
    <${Trouble} error=${error} />
    ${seen && (seen.rows.length ? html`<${Figures} seen=${seen} by=${by} range=${range} params=${params} />` : html`<${Empty}>No attempt ended in that time.</${Empty}>`)}
    <p class="note"><${Command} text=${asUsage({ by, range, user, site, queue, label })} /></p>`;
}

/** @param {{seen: any, by: string, range: string, params: Record<string, string>}} props */
function Figures({ seen, by, range, params }) {
  const { total } = seen;
  const wasted = most(total.wasted_core_s);
  const pilots = most(total.pilot_core_s);
  const there = pilots.reduce((all, [, s]) => all + s, 0);
  return html`<section class="card" aria-label="Core-hours over time"><header><h2>${coreHours(total.core_s)} core-hours asked for</h2>
      <div class="note">${share(total.cpu_s, total.core_s)} of it used · memory ${share(total.peak_mb_s, total.memory_mb_s)} at the peak${total.gpu_s > 0 ? ` · ${coreHours(total.gpu_s)} GPU-hours` : ""}</div></header>
      <${Chart} columns=${columns(seen.over_time, range, seen.since, seen.until)} /></section>
    <section class="card"><${Table} seen=${seen} by=${by} params=${params} />${seen.more > 0 && html`<p class="note">and ${count(seen.more)} more</p>`}</section>
    ${wasted.length > 0 && html`<section class="card"><h2>For nothing</h2><${Parts} parts=${wasted.map(([name, s]) => [...(OUTCOMES[name] ?? ["blocked", name]), s])} of=${total.core_s} /></section>`}
    ${there > 0 && html`<section class="card"><h2>Pilots’ cores</h2><${Parts} parts=${pilots.map(([name, s]) => [name === "busy" ? "finished" : "blocked", PILOTS[name] ?? name, s])} of=${there} /></section>`}`;
}

/** @param {{columns: {at: string, parts: Record<string, number>}[]}} props */
function Chart({ columns: shown }) {
  const sum = (/** @type {Record<string, number>} */ parts) => Object.values(parts).reduce((all, s) => all + s, 0);
  const top = Math.max(1e-3, ...shown.map(({ parts }) => sum(parts)));
  const there = Object.keys(OUTCOMES).filter((name) => shown.some(({ parts }) => parts[name]));
  return html`<div class="towers" role="img" aria-label=${`Core-hours over time, at most ${coreHours(top)} in one column`}>${shown.map(({ at, parts }) => html`
      <div key=${at} title=${`${at}: ${coreHours(sum(parts))} h`}>${there.map((name) => parts[name] > 0 && html`<i key=${name} data-group=${OUTCOMES[name][0]} style=${{ height: `${(100 * parts[name]) / top}%` }}></i>`)}</div>`)}</div>
    <div class="axis"><span>${shown[0]?.at}</span><span>${shown.length > 1 ? shown[shown.length - 1].at : ""}</span></div>
    <ul class="legend">${there.map((name) => html`<li key=${name} data-group=${OUTCOMES[name][0]}><i></i>${OUTCOMES[name][1]}</li>`)}</ul>`;
}

/** @param {{seen: any, by: string, params: Record<string, string>}} props */
function Table({ seen, by, params }) {
  const top = Math.max(1e-3, ...seen.rows.map((/** @type {any} */ row) => row.core_s));
  const gpus = seen.total.gpu_s > 0;
  const name = by.split(",")[0].replace(/^label:/, "");
  const to = (/** @type {string} */ key) => link({ page: "usage", params: { ...params, by: by === "site" ? "user" : "site", [by]: key } });
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Table of usage"><table class="plain">
    <thead><tr><th>${name[0].toUpperCase() + name.slice(1)}</th><th class="grow">Finished and for nothing</th><th class="n">Core h</th><th class="n">Used</th><th class="n">Wasted</th><th class="n wide">Wall h</th>${gpus && html`<th class="n">GPU h</th>`}<th class="n wide">GB h</th><th class="n wide">At peak</th><th class="n">Attempts</th></tr></thead>
    <tbody>${seen.rows.map((/** @type {any} */ row) => {
      const key = Object.values(row.key).join(" · ");
      const wasted = Object.values(row.wasted_core_s).reduce((/** @type {number} */ all, /** @type {any} */ s) => all + s, 0);
      return html`<tr key=${key}><th scope="row">${BY.includes(by) && key ? html`<a href=${to(key)}>${key}</a>` : key || html`<i class="dim">none</i>`}</th>
        <td class="grow"><${Bar} label=${`${key} in core-hours`} total=${top / HOUR} parts=${[["finished", (row.core_s - wasted) / HOUR], ["failed", wasted / HOUR]]} /></td>
        <td class="n">${coreHours(row.core_s)}</td><td class="n">${share(row.cpu_s, row.core_s)}</td><td class="n">${share(wasted, row.core_s)}</td>
        <td class="n wide">${coreHours(row.wall_s)}</td>${gpus && html`<td class="n">${coreHours(row.gpu_s)}</td>`}
        <td class="n wide">${coreHours(row.memory_mb_s / 1000)}</td><td class="n wide">${share(row.peak_mb_s, row.memory_mb_s)}</td><td class="n">${count(row.attempts)}</td></tr>`;
    })}</tbody></table></div>`;
}

/** @param {{parts: [string, string, number][], of: number}} props */
const Parts = ({ parts, of }) => html`<ul class="shares">${parts.map(([group, text, s]) => html`
  <li key=${text}><span>${text}</span><${Bar} label=${text} total=${of / HOUR} parts=${[[group, s / HOUR]]} /><span class="num">${coreHours(s)} h · ${share(s, of)}</span></li>`)}</ul>`;
