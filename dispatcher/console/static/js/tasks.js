// Tasks: a list with a bar a step, and a page of one, where it is steered.

import { useRef, useState } from "preact/hooks";
import { useVerbs } from "./act.js";
import { address, get, post } from "./api.js";
import { bytes, count, duration } from "./format.js";
import { now } from "./live.js";
import { html, Ago, Bar, Empty, JobLink, Pages, State, Trouble, useLive } from "./parts.js";
import { link } from "./query.js";
import { layered, pace, rated, totals } from "./steps.js";

/** How often a page looks by itself: files that are staged move no sums of jobs. */
const LOOK_S = 5;
const STATES = ["running", "paused", "finished", "failed", "cancelled"];
/** Of states that jobs do not have. */
const GROUPS = { submitting: "waiting", paused: "blocked", open: "running", ready: "waiting", ended: "reporting" };
/** Fields of sums: each with its colour and its word. @type {["finished" | "failed" | "open" | "waiting", string, string][]} */
const PARTS = [["finished", "finished", "finished"], ["failed", "failed", "failed"], ["open", "running", "in jobs"], ["waiting", "waiting", "waiting"]];
/** @param {ReturnType<typeof totals>} sums */
const barred = (sums) => PARTS.map(([field, group, word]) => /** @type {[string, number, string]} */ ([group, sums[field], word]));
/** Bars of one task in a list. */
const BARS = 5;

/** `like`: the verb of jobs that the same tokens may do. @typedef {{word: string, then: string, like: string, danger?: boolean, may: (row: any, failed: number) => boolean}} Verb */
/** @type {Record<string, Verb>} */
const VERBS = {
  pause: { word: "Pause", like: "retry", may: (row) => row.state === "running", then: "It makes no more jobs until it is resumed; those that there are go on." },
  resume: { word: "Resume", like: "retry", may: (row) => row.state === "paused", then: "It makes jobs again." },
  retry: { word: "Retry what failed", like: "retry", may: (row, failed) => failed > 0 || row.state === "failed" || row.state === "cancelled", then: "Items that failed, and those that never began, are tried again; what has finished stays." },
  finish: { word: "Finish early", like: "retry", may: (row) => row.state === "running" || row.state === "paused", then: "No more items begin; what there is goes through the steps after, and suffices." },
  cancel: { word: "Cancel", like: "cancel", danger: true, may: (row) => !["finished", "failed", "cancelled"].includes(row.state), then: "It makes no more jobs, and those that there are are cancelled where they are." },
};

/** @param {{row: any}} props */
const TaskState = ({ row }) => html`<${State} state=${row.state} group=${GROUPS[/** @type {keyof GROUPS} */ (row.state)]} />`;

/** @param {{step: any}} props */
const Progress = ({ step }) => html`<${Bar} label=${`Step ${step.name}`} total=${step.items} parts=${barred(totals([step]))} />`;

/** @param {{params: Record<string, string>}} props */
export function Tasks({ params }) {
  const { state = "", user = "", before = "" } = params;
  const { seen, error } = useLive(() => get("tasks", { state, user, before, limit: 50 }), JSON.stringify([state, user, before]), LOOK_S);
  const rows = seen?.tasks ?? [];
  const chip = (/** @type {string} */ key, /** @type {string} */ value, text = value) => {
    const on = (params[key] ?? "") === value;
    return html`<a key=${key + value} class="chip" aria-current=${on ? "true" : undefined} href=${link({ page: "tasks", params: { ...params, before: "", [key]: on ? "" : value } })}>${text}</a>`;
  };
  return html`<div class="heading"><h1>Tasks</h1></div>
    <div class="filters" role="group" aria-label="Filter">${STATES.map((name) => chip("state", name))}${user && chip("user", user, `user: ${user}`)}</div>
    <${Trouble} error=${error} />
    ${seen && (rows.length ? html`<section class="card"><div class="scroll" tabindex="0" role="region" aria-label="Table of tasks"><table class="plain">
      <thead><tr><th class="n wide">Number</th><th>Name</th><th>State</th><th class="grow">Steps</th><th class="n wide">Items</th><th class="wide">User</th><th class="n">Submitted</th></tr></thead>
      <tbody>${rows.map((/** @type {any} */ row) => html`<tr key=${row.task_id}><td class="n wide">${row.task_id}</td>
        <th scope="row"><a href=${link({ page: "task", id: row.task_id })}>${row.name}</a></th><td><${TaskState} row=${row} /></td>
        <td class="grow"><div class="steps">${row.steps.slice(0, BARS).map((/** @type {any} */ step) => html`<${Progress} key=${step.name} step=${step} />`)}${row.steps.length > BARS && html`<span class="note">and ${row.steps.length - BARS} more</span>`}</div></td>
        <td class="n wide">${count(totals(row.steps).items)}</td><td class="wide"><a href=${link({ page: "tasks", params: { ...params, before: "", user: row.user } })}>${row.user}</a></td>
        <td class="n"><${Ago} at=${row.created} /></td></tr>`)}</tbody></table></div></section>`
      : html`<${Empty} command="dispatcher task submit task.yaml">${Object.keys(params).length ? "No task is like that." : "What is to be done with each item of a list or a data set is one line here:"}</${Empty}>`)}
    ${seen && html`<${Pages} place=${{ page: "tasks", params }} name="before" next=${seen.next ?? null} />`}`;
}

/** @param {{id: number, params: Record<string, string>}} props */
export function Task({ id, params }) {
  const load = () => get("task", { task_id: id });
  const { seen, error, set } = useLive(load, String(id), LOOK_S);
  const first = useRef(/** @type {{at: number, ended: number} | null} */ (null));
  if (!seen) return html`<div class="heading"><h1>Task ${id}</h1></div><${Trouble} error=${error} />${error ? html`<p><a href="#/tasks">All tasks</a></p>` : html`<div class="loading">Loading…</div>`}`;
  const { row, task, staging = [] } = seen;
  const sums = totals(row.steps);
  first.current ??= { at: now.value, ended: sums.finished + sums.failed };
  const chosen = row.steps.findIndex((/** @type {any} */ step) => step.name === (params.step ?? row.steps[0].name));
  const at = (/** @type {any} */ more) => link({ page: "task", id, params: { ...params, ...more } });
  const graph = params.view === "graph";
  return html`<div class="heading job"><p class="crumb"><a href="#/tasks">Tasks</a> / <span class="num">${id}</span></p>
      <h1>${row.name}</h1><${TaskState} row=${row} /><${Steer} row=${row} failed=${sums.failed} done=${() => load().then(set)} /></div>
    <p class="subject"><span>user <a href=${link({ page: "tasks", params: { user: row.user } })}>${row.user}</a></span><span>submitted <${Ago} at=${row.created} past=${true} /></span>
      <a href=${link({ page: "jobs", params: { query: `label:task=${id}` } })}>all its jobs</a>
      ${sums.failed > 0 && html`<a href=${link({ page: "jobs", params: { query: `label:task=${id} state:failed` } })}>its failed jobs</a>`}</p>
    ${row.reason && html`<div class="trouble" role="note">${row.reason}</div>`}<${Trouble} error=${error} />
    <section class="card river" aria-label="Progress">
      <${Bar} label=${`Task ${id}`} total=${sums.items} parts=${barred(sums)} />
      <ul class="legend">${barred(sums).map(([group, n, word]) => html`<li key=${word}><i data-group=${group}></i>${word} <b class="num">${count(n)}</b></li>`)}</ul>
      <p class="note" role="status"><${Pace} row=${row} first=${first.current} /></p></section>
    <section class="card" aria-label="Steps"><header><h2>Steps</h2>${row.steps.length > 1 && html`<div class="note">${graph ? html`<a href=${at({ view: "" })}>as a list</a>` : html`<a href=${at({ view: "graph" })}>as a graph</a>`}</div>`}</header>
      ${graph ? html`<${Graph} steps=${task.steps} rows=${row.steps} chosen=${chosen} at=${at} />` : html`<div class="scroll" tabindex="0" role="region" aria-label="Table of steps"><table class="plain">
      <thead><tr><th>Step</th><th class="grow">Progress</th><th class="n">Items</th><th class="n wide">Jobs</th><th class="wide">How it stands</th></tr></thead>
      <tbody>${row.steps.map((/** @type {any} */ step, /** @type {number} */ nr) => html`<tr key=${step.name}><th scope="row"><a href=${at({ step: step.name, items: "", after: "" })} aria-current=${nr === chosen ? "true" : undefined}>${step.name}</a></th>
        <td class="grow"><${Progress} step=${step} /></td><td class="n">${count(step.items)}${step.closed ? "" : "…"}</td><td class="n wide">${count(step.jobs)}</td><td class="wide stands">${step.sentence}</td></tr>`)}</tbody></table></div>`}</section>
    ${chosen >= 0 && html`<${Step} key=${row.steps[chosen].name} id=${id} step=${row.steps[chosen]} staging=${staging.find((/** @type {any} */ one) => one.step === row.steps[chosen].name)} params=${params} />`}`;
}

/** How fast it goes, and how long it will. @param {{row: any, first: {at: number, ended: number}}} props */
function Pace({ row, first }) {
  const { ended, rate, watched, left, known } = pace(row, now.value, first);
  const going = row.state === "running" && ended > 0;
  return html`${count(ended)} items have ended${going ? `, ${rated(rate)} ${watched ? "now" : "since it was submitted"}` : ""}${left !== null && going ? `: ${duration(left)} left at that rate` : ""}${known ? "" : "; more items may come"}.`;
}

/** What may be done to it now, each after a question. @param {{row: any, failed: number, done: () => Promise<any>}} props */
function Steer({ row, failed, done }) {
  const verbs = useVerbs();
  const [verb, setVerb] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(/** @type {any} */ (null));
  const act = () => {
    setBusy(true);
    const ask = verb === "cancel" ? post("tasks/cancel", { task_id: row.task_id }) : post("tasks/steer", { task_id: row.task_id, verb });
    ask.then(done).then(() => { setVerb(""); setError(null); }, setError).then(() => setBusy(false));
  };
  const { word, then, danger } = VERBS[verb] ?? {};
  return html`<div class="actions">${Object.entries(VERBS).filter(([, one]) => verbs.includes(one.like) && one.may(row, failed)).map(([name, one]) => html`
      <button key=${name} type="button" class=${one.danger ? "danger" : ""} onClick=${() => { setError(null); setVerb(name); }}>${one.word}…</button>`)}
    ${verb && html`<dialog ref=${(/** @type {HTMLDialogElement | null} */ box) => { if (box && !box.open) box.showModal(); }} onClose=${() => setVerb("")} aria-label=${`${word} task ${row.task_id}?`}>
      <h2>${word}: task ${row.task_id}?</h2><p>${then}</p><${Trouble} error=${error} />
      <div class="actions"><button type="button" disabled=${busy} onClick=${() => setVerb("")}>Leave it</button><button type="button" class=${danger ? "danger" : "primary"} disabled=${busy} onClick=${act}>${word}</button></div></dialog>`}</div>`;
}

const BOX = { width: 200, height: 66, x: 250, y: 84 };

/** Steps with what each takes from; a dashed line is a gate. @param {{steps: any[], rows: any[], chosen: number, at: (more: any) => string}} props */
function Graph({ steps, rows, chosen, at }) {
  const { boxes, lines } = layered(steps);
  const [columns, deep] = boxes.reduce(([w, h], box) => [Math.max(w, box.column), Math.max(h, box.row)], [0, 0]);
  const [width, height] = [columns * BOX.x + BOX.width, deep * BOX.y + BOX.height];
  const middle = (/** @type {number} */ nr) => boxes[nr].row * BOX.y + BOX.height / 2;
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Graph of steps"><div class="graph" style=${{ width: `${width}px`, height: `${height}px` }}>
    <svg width=${width} height=${height} aria-hidden="true">${lines.map(({ from, to, gate }, nr) => {
      const [x, end] = [boxes[from].column * BOX.x + BOX.width, boxes[to].column * BOX.x];
      return html`<path key=${nr} class=${gate ? "gate" : ""} d=${`M${x} ${middle(from)}C${x + 30} ${middle(from)} ${end - 30} ${middle(to)} ${end} ${middle(to)}`} />`;
    })}</svg>
    ${boxes.map((box, nr) => html`<a key=${box.name} href=${at({ step: box.name, items: "", after: "" })} aria-current=${nr === chosen ? "true" : undefined} title=${rows[nr].sentence} style=${{ left: `${box.column * BOX.x}px`, top: `${box.row * BOX.y}px`, width: `${BOX.width}px`, height: `${BOX.height}px` }}>
      <b>${box.name}</b><${Progress} step=${rows[nr]} /><span class="num">${count(rows[nr].finished)} of ${count(rows[nr].items)}${rows[nr].closed ? "" : "…"}</span></a>`)}</div></div>`;
}

// One step: the files that are staged for it, and its items by state.

/** Rows of a page. */
const LIMIT = 50;
/** Pages of the dispatcher's in one of ours, at most: it looks at some items for each. */
const TURNS = 5;
/** As the dispatcher calls it, as people do, and its colour. @type {[string, string, string][]} */
const ITEMS = [["", "all that had a job", "blocked"], ["open", "in jobs", "running"], ["ready", "to be tried again", "waiting"], ["failed", "failed", "failed"], ["finished", "finished", "finished"]];
const WORDS = { open: "in a job", ready: "to be tried again", ended: "ended" };

/** @param {{id: number, step: any, staging: any, params: Record<string, string>}} props */
function Step({ id, step, staging, params }) {
  const { items = "", after = "" } = params;
  const load = async () => {
    /** @type {any[]} */
    const rows = [];
    /** @type {number | null} */
    let at = after === "" ? -1 : Number(after);
    for (let turn = 0; turn < TURNS && at !== null && rows.length < LIMIT; turn += 1) {
      const page = await get("task/items", { task_id: id, step: step.name, state: items, after: at, limit: LIMIT - rows.length });
      rows.push(...page.items);
      at = page.next ?? null;
    }
    return { rows, next: at };
  };
  const { seen, error } = useLive(load, JSON.stringify([items, after]), LOOK_S);
  const at = (/** @type {any} */ more) => link({ page: "task", id, params: { ...params, step: step.name, ...more } });
  return html`<section class="card" aria-label=${`Step ${step.name}`}><header><h2>${step.name}</h2></header>
    <p class="note">${step.sentence}.</p>
    ${staging && html`<${Carousel} staging=${staging} />`}
    <div class="filters" role="group" aria-label="Items">${ITEMS.map(([state, word, group]) => html`<a key=${state} class="chip" aria-current=${state === items ? "true" : undefined} href=${at({ items: state, after: "" })}>${state && html`<i data-group=${group}></i>`}${word}</a>`)}</div>
    <${Trouble} error=${error} />
    ${seen && (seen.rows.length ? html`<div class="scroll" tabindex="0" role="region" aria-label="Table of items"><table class="plain">
      <thead><tr><th class="n">Nr</th><th class="grow">Item</th><th>State</th><th class="n wide">Tries</th><th class="n">Job</th><th>Log</th></tr></thead>
      <tbody>${seen.rows.map((/** @type {any} */ row) => html`<tr key=${row.first}><td class="n">${count(row.first + 1)}</td>
        <td class="grow">${row.item || html`<span class="dim">${row.items ? "too large to show" : "leases items, which its page lists"}</span>`}${row.items > 1 && html` <span class="dim">and ${count(row.items - 1)} more</span>`}${row.reason && html`<div class="note">${row.reason}</div>`}</td>
        <td><${State} state=${WORDS[/** @type {keyof WORDS} */ (row.state)] ?? row.state} group=${GROUPS[/** @type {keyof GROUPS} */ (row.state)]} /></td><td class="n wide">${row.tries}</td>
        <td class="n">${row.job_id ? html`<${JobLink} id=${row.job_id} />` : "–"}</td>
        <td>${row.job_id ? html`<a href=${link({ id: row.job_id, params: { lines: "stdout.L1" } })}>read</a> · <a download href=${address(`jobs/${row.job_id}/log/file`, { stream: "stdout" }).href}>download</a>` : ""}</td></tr>`)}</tbody></table></div>`
      : html`<p class="note">${items === "" ? "No item has had a job yet." : seen.next !== null ? "None among those that were looked at." : "None."}</p>`)}
    ${seen && html`<${Pages} place=${{ page: "task", id, params }} name="after" next=${seen.next} words=${["From the first", "Next"]} />`}
  </section>`;
}

/** Files on their way to jobs. @param {{staging: any}} props */
const Carousel = ({ staging: { storage, listed, asked, staging, staged, held, most, held_bytes: kept } }) => {
  /** @type {[string, number, string][]} */
  const parts = [["not asked for yet", listed, "blocked"], ["asked", asked, "batch"], ["staging", staging, "staging"], ["staged", staged, "waiting"], ["with a job", held, "running"]];
  return html`<div class="carousel"><h3>Files on their way to ${storage}</h3>
    <${Bar} label="Files" parts=${parts.map(([word, n, group]) => [group, n, word])} />
    <ul class="legend">${parts.map(([word, n, group]) => html`<li key=${word}><i data-group=${group}></i>${word} <b class="num">${count(n)}</b></li>`)}</ul>
    <p class="note">${count(asked + staging + staged + held)} of ${count(most)} that may be on their way or kept there${kept ? `, ${bytes(kept)}` : ""}.</p></div>`;
};
