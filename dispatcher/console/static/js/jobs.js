// All jobs, newest first: the filter lives in the address, rows change under the reader's eyes.

import { useEffect, useRef, useState } from "preact/hooks";
import { Actions, useVerbs } from "./act.js";
import { GROUPS, count, grouped, statesOf } from "./format.js";
import { overview } from "./live.js";
import { html, Ago, Command, Empty, State, Trouble } from "./parts.js";
import { asCommand, link } from "./query.js";
import { visible } from "./rows.js";
import { useJobs } from "./useJobs.js";

const ROW_PX = 40;

/** @param {{params: Record<string, string>, go: (to: any) => void}} props */
export function Jobs({ params, go }) {
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const list = useJobs(params, 100, () => (box.current?.scrollTop ?? 0) < ROW_PX);
  const verbs = useVerbs();
  const [chosen, setChosen] = useState({ ids: /** @type {Set<number>} */ (new Set()), all: false });
  const key = JSON.stringify(params);
  useEffect(() => setChosen({ ids: new Set(), all: false }), [key]);
  const pick = (/** @type {number[]} */ ids, /** @type {boolean} */ on) => setChosen((old) => {
    const now = new Set(old.ids);
    for (const id of ids) if (on) now.add(id); else now.delete(id);
    return { ids: now, all: false };
  });
  const filtered = Object.keys(params).length > 0;
  return html`
    <div class="heading"><h1>Jobs</h1>${filtered && html`<a class="chip" href="#/jobs">clear filter ×</a>`}
      <${Command} text=${asCommand(params)} /></div>
    <${Filters} params=${params} />
    ${list.cut && html`<p class="note" role="status">Jobs from ${list.next} on were not looked at yet: the search takes longer than a page may. <button type="button" class="quiet" onClick=${list.more}>Look further</button></p>`}
    <${Trouble} error=${list.error} />
    ${list.fresh > 0 && html`<button type="button" class="fresh" onClick=${() => { list.show(); box.current?.scrollTo(0, 0); }}>${count(list.fresh)} new above</button>`}
    ${!list.rows.length && !list.loading
      ? filtered ? html`<${Empty}>No job matches. <a href="#/jobs">Show all jobs</a></${Empty}>`
        : html`<${Empty} command="dispatcher submit job.yaml">No job yet. Submit the first one:</${Empty}>`
      : html`<${Table} list=${list} box=${box} go=${go} chosen=${chosen} pick=${verbs.length ? pick : null} />`}
    <${Actions} chosen=${chosen} params=${params} verbs=${verbs} more=${list.next !== null || chosen.ids.size === list.rows.length} done=${list.show}
      clear=${() => setChosen({ ids: new Set(), all: false })}
      all=${() => setChosen({ ids: new Set(list.rows.map((row) => row.job_id)), all: true })} />`;
}

/** One click a state group; queues as a choice. @param {{params: Record<string, string>}} props */
function Filters({ params }) {
  const sums = overview.value ? grouped(overview.value.states) : null;
  const queues = (overview.value?.queues ?? []).map((/** @type {any} */ queue) => queue.name).filter(Boolean);
  const chip = (/** @type {string} */ key, /** @type {string} */ value, /** @type {any} */ label, /** @type {string} */ group = "") => {
    const on = (params[key] ?? "") === value;
    return html`<a key=${key + value} class="chip" data-group=${group || undefined} aria-current=${on ? "true" : undefined}
      href=${link({ page: "jobs", params: { ...params, [key]: on ? "" : value } })}>${group && html`<i data-group=${group}></i>`}${label}</a>`;
  };
  return html`<div class="filters" role="group" aria-label="Filter">
    ${GROUPS.map((group) => chip("state", statesOf(group), html`${group}${sums && html`<b>${count(sums[group])}</b>`}`, group))}
    ${queues.length > 1 && queues.slice(0, 12).map((/** @type {string} */ name) => chip("queue", name, name))}
    ${params.query && chip("query", params.query, params.query)}
    ${["user", "code", "kind", "name", "queue"].filter((key) => params[key] && !(key === "queue" && queues.length > 1)).map((key) => chip(key, params[key], `${key === "kind" ? "failures of kind" : `${key}:`} ${params[key]}`))}
  </div>`;
}

/** Only the rows that can be seen exist. @param {{list: import("./useJobs.js").JobList, box: {current: HTMLElement | null}, go: (to: any) => void,
 *  chosen: import("./act.js").Chosen, pick: null | ((ids: number[], on: boolean) => void)}} props */
function Table({ list, box, go, chosen, pick }) {
  const { rows, next, more, loading } = list;
  const [view, setView] = useState({ top: 0, height: 800 });
  const [at, setAt] = useState(-1);
  /** A row, or with shift all from the last one on. @param {number} to @param {boolean} on @param {boolean} shift */
  const choose = (to, on, shift) => {
    const [first, last] = shift && at >= 0 ? [Math.min(at, to), Math.max(at, to)] : [to, to];
    pick?.(rows.slice(first, last + 1).map((row) => row.job_id), on);
    setAt(to);
  };
  const measure = () => {
    const element = box.current;
    if (!element) return;
    setView({ top: element.scrollTop, height: element.clientHeight });
    if (next !== null && element.scrollTop + element.clientHeight > element.scrollHeight - 30 * ROW_PX) more();
  };
  useEffect(() => {
    measure();
    addEventListener("resize", measure);
    return () => removeEventListener("resize", measure);
  }, [rows.length]);
  useEffect(() => {
    const press = (/** @type {KeyboardEvent} */ event) => {
      if (/** @type {HTMLElement} */ (event.target).matches("input:not([type=checkbox]), textarea, select, button, a[href]:not(.rowlink)") || event.ctrlKey || event.metaKey) return;
      if (event.key === "x" && rows.length) return choose(Math.max(at, 0), !chosen.ids.has(rows[Math.max(at, 0)].job_id), false);
      const step = { j: 1, k: -1 }[event.key];
      if (!step) return;
      const to = Math.max(0, Math.min(rows.length - 1, at + step));
      setAt(to);
      const element = box.current;
      if (element && (to * ROW_PX < element.scrollTop || (to + 2) * ROW_PX > element.scrollTop + element.clientHeight))
        element.scrollTo({ top: to * ROW_PX - element.clientHeight / 2 });
      requestAnimationFrame(() => /** @type {HTMLElement | null} */ (element?.querySelector(`[data-row="${to}"] a`))?.focus({ preventScroll: true }));
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, [rows, at, chosen, pick]);
  const { first, last } = visible(view.top, view.height, ROW_PX, rows.length);
  return html`<div class=${`jobs card${pick ? " picks" : ""}`} role="table" aria-label="Jobs" aria-rowcount=${next === null ? rows.length + 1 : -1} aria-busy=${loading}
    ref=${box} onScroll=${measure} tabindex="0">
    <div role="rowgroup" class="sticky"><div role="row" class="row head" aria-rowindex="1">
      ${pick && html`<span role="columnheader" class="pick"><input type="checkbox" aria-label="Select all that are shown" checked=${chosen.ids.size > 0 && chosen.ids.size === rows.length}
        onChange=${(/** @type {any} */ e) => pick(rows.map((row) => row.job_id), e.target.checked)} /></span>`}
      ${["Job", "State", "Name", "Queue", "User", "Try", "Diagnosis", "Changed"].map((name) => html`<span key=${name} role="columnheader" class=${`c-${name.toLowerCase()}`}>${name}</span>`)}
    </div></div>
    <div role="rowgroup" class="tall" style=${{ height: `${rows.length * ROW_PX}px` }}>
      ${rows.slice(first, last).map((row, index) => html`<${Line} key=${row.job_id} row=${row} at=${first + index} go=${go} on=${chosen.ids.has(row.job_id)} choose=${pick && choose} />`)}
    </div>
  </div>`;
}

/** @param {{row: any, at: number, go: (to: any) => void, on: boolean, choose: null | ((to: number, on: boolean, shift: boolean) => void)}} props */
const Line = ({ row, at, go, on, choose }) => html`
  <div role="row" class=${`row${row.left ? " left" : ""}${on ? " on" : ""}`} data-row=${at} aria-rowindex=${at + 2} style=${{ top: `${at * ROW_PX}px` }}
    onClick=${(/** @type {MouseEvent} */ e) => {
      if (/** @type {HTMLElement} */ (e.target).closest(".pick")) return;
      if (choose && (e.shiftKey || e.ctrlKey || e.metaKey)) { e.preventDefault(); getSelection()?.removeAllRanges(); choose(at, e.shiftKey || !on, e.shiftKey); return; }
      if (!(/** @type {HTMLElement} */ (e.target).closest("a")) && !getSelection()?.toString()) go({ id: row.job_id });
    }}>
    ${choose && html`<span role="cell" class="pick"><input type="checkbox" aria-label=${`Select job ${row.job_id}`} checked=${on}
      onClick=${(/** @type {any} */ e) => choose(at, e.target.checked, e.shiftKey)} /></span>`}
    <span role="cell" class="c-job num">${row.job_id}</span>
    <span role="cell" class="c-state"><${State} state=${row.state} /></span>
    <span role="cell" class="c-name" title=${row.name}><a class="rowlink" href=${link({ id: row.job_id })}>${row.name}</a></span>
    <span role="cell" class="c-queue" title=${row.queue}>${row.queue || html`<i class="dim">any</i>`}</span>
    <span role="cell" class="c-user" title=${row.user}>${row.user}</span>
    <span role="cell" class="c-try num">${row.attempt_nr || "–"}</span>
    <span role="cell" class="c-diagnosis" title=${row.diagnosis}>${row.code ? html`<b>${row.code}</b> ` : ""}${row.diagnosis}</span>
    <span role="cell" class="c-changed"><${Ago} at=${row.changed} /></span>
  </div>`;
