// The frame around the pages: who is signed in, where we are, keys, theme.

import { render } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { signal } from "@preact/signals";
import { get, post, signedIn } from "./api.js";
import { heardAt, overview, start, status, stop } from "./live.js";
import { html, Tail } from "./parts.js";
import { moment, short, grouped } from "./format.js";
import { PAGES, link, parse, spoken, understand } from "./query.js";
import { Feedback } from "./feedback.js";
import { Help, SignIn } from "./welcome.js";
import { Overview } from "./overview.js";
import { Jobs } from "./jobs.js";
import { Failures } from "./failures.js";
import { Job } from "./job.js";
import { Submission, Submissions } from "./submissions.js";
import { Task, Tasks } from "./tasks.js";
import { Pilots } from "./pilots.js";
import { Worker } from "./worker.js";
import { Queues } from "./queues.js";
import { Usage } from "./usage.js";

const place = signal(parse(location.hash));
const helping = signal(false);
const theme = signal(document.documentElement.dataset.theme ?? "system");
/** @type {Record<keyof PAGES | "job" | "submission" | "task" | "worker", import("preact").ComponentType<any>>} */
const VIEWS = { overview: Overview, jobs: Jobs, job: Job, submissions: Submissions, submission: Submission, tasks: Tasks, task: Task, worker: Worker, pilots: Pilots, queues: Queues, failures: Failures, usage: Usage };
const NAV = Object.entries(PAGES);
const KEYS = Object.fromEntries(NAV.map(([name, { key }]) => [key, name]));

/** @param {Parameters<typeof link>[0]} to */
const go = (to) => { location.hash = link(to); };

addEventListener("hashchange", () => {
  const before = place.value;
  place.value = parse(location.hash);
  if (before.page !== place.value.page || before.id !== place.value.id) scrollTo(0, 0);
});

let prefixed = 0;
addEventListener("keydown", (event) => {
  const target = /** @type {HTMLElement} */ (event.target);
  if (event.key === "Escape") helping.value = false;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (target.matches("input, textarea, select") || signedIn.value !== true) return;
  const search = /** @type {HTMLInputElement | null} */ (document.querySelector("#search"));
  if (event.key === "/" && search) {
    event.preventDefault();
    search.focus();
    search.select();
  } else if (event.key === "?") helping.value = !helping.value;
  else if (event.key === "g") prefixed = Date.now();
  else if (Date.now() - prefixed < 1200 && Object.hasOwn(KEYS, event.key)) {
    prefixed = 0;
    go({ page: KEYS[event.key] });
  }
});

function setTheme() {
  const next = { system: "light", light: "dark", dark: "system" }[theme.value] ?? "system";
  theme.value = next;
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try {
    if (next === "system") localStorage.removeItem("theme");
    else localStorage.setItem("theme", next);
  } catch { /* then it lasts as long as the page */ }
  dispatchEvent(new Event("themechange"));
}

const BADGE = { connecting: "connecting", live: "live", reconnecting: "reconnecting", stale: "stale", paused: "paused" };

function Badge() {
  const at = status.value;
  const since = heardAt.value && at !== "live" ? ` since ${moment(heardAt.value).slice(11)}` : "";
  return html`<span class="badge" data-status=${at} role="status"
    title=${at === "live" ? "Every number on this page moves by itself" : "What you see may be old"}>
    <i></i>${BADGE[/** @type {keyof BADGE} */ (at)]}${at === "stale" || at === "reconnecting" ? since : ""}</span>`;
}

/** The box understands what the command line does; a number goes straight to its job. */
function Search() {
  const box = useRef(/** @type {HTMLInputElement | null} */ (null));
  const { page, params } = place.value;
  const shown = page === "jobs" ? spoken(params) : "";
  useEffect(() => { if (box.current && document.activeElement !== box.current) box.current.value = shown; }, [shown]);
  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    const { filter, job } = understand(box.current?.value ?? "");
    box.current?.blur();
    go(job !== null ? { id: job } : { page: "jobs", params: filter });
  };
  return html`<form class="search" role="search" onSubmit=${submit}>
    <input id="search" ref=${box} type="search" autocomplete="off" spellcheck=${false} aria-label="Find jobs"
      placeholder="job id, name, state:failed age<2h …" />
    <kbd aria-hidden="true">/</kbd></form>`;
}

async function signOut() {
  stop();
  await post("session/end", {}).catch(() => undefined);
  signedIn.value = false;
}

function Frame() {
  const { page, id, params } = place.value;
  const Page = VIEWS[/** @type {keyof VIEWS} */ (page)];
  const here = { job: "jobs", submission: "submissions", task: "tasks", worker: "pilots" }[page] ?? page;
  const running = overview.value ? grouped(overview.value.states).running : 0;
  useEffect(() => {
    const title = id === null ? (PAGES[/** @type {keyof PAGES} */ (page)]?.title ?? "") : `${{ worker: "Pilot", submission: "Submission", task: "Task" }[page] ?? "Job"} ${id}`;
    document.title = `${title} · Ailurus`;
  }, [page, id]);
  return html`
    <a class="skip" href="#main" onClick=${(/** @type {Event} */ e) => { e.preventDefault(); document.querySelector("main")?.focus(); }}>Skip to the page</a>
    <header class="top">
      <a class="brand" href="#/" aria-label="Ailurus, overview"><${Tail} /><span>Ailurus</span></a>
      <nav aria-label="Pages">${NAV.map(([name, { title }]) => html`
        <a key=${name} href=${link({ page: name })} aria-current=${here === name ? "page" : undefined} data-nav=${name}>
          <${Icon} name=${name} /><span>${title}</span>${name === "jobs" && running > 0 && html`<b title="running now">${short(running)}</b>`}</a>`)}
      </nav>
      <${Search} />
      <div class="tools">
        <${Badge} />
        <button type="button" class="quiet icon" onClick=${setTheme} title=${`Theme: ${theme.value}`} aria-label=${`Theme: ${theme.value}. Change it`}><${Icon} name=${theme.value} /></button>
        <button type="button" class="quiet icon wide" onClick=${() => { helping.value = true; }} title="Keys (?)" aria-label="Keys and help">?</button>
        <button type="button" class="quiet icon" onClick=${signOut} title="Sign out" aria-label="Sign out"><${Icon} name="out" /></button>
      </div>
    </header>
    <main id="main" tabindex="-1"><${Page} key=${`${page}${id ?? ""}`} id=${id} params=${params} go=${go} /></main>
    <footer><span>Ailurus ${overview.value?.version ?? ""}</span><${Feedback} key=${`${page}${id ?? ""}`} about=${`page ${link({ page, id })}`}>Feedback</${Feedback}><span class="wide">press <kbd>?</kbd> for keys</span></footer>
    ${helping.value && html`<${Help} close=${() => { helping.value = false; }} />`}`;
}

const SHAPES = {
  overview: "M3 12h4l3-8 4 16 3-8h4", jobs: "M4 6h16M4 12h16M4 18h10",
  submissions: "M3 7l9-4 9 4-9 4zM3 12l9 4 9-4M3 17l9 4 9-4",
  tasks: "M3 4h6v5H3zM15 4h6v5h-6zM15 15h6v5h-6zM9 6.500h6M12 6.500v11h3",
  pilots: "M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM13 13h7v7h-7z", queues: "M4 5v14M9 8v8M14 5v14M19 8v8",
  failures: "M12 3l10 18H2zM12 10v5M12 18v.5", usage: "M4 20h16M6 17v-5M12 17V5M18 17V9",
  light: "M12 8a4 4 0 100 8 4 4 0 000-8zM12 2v3M12 19v3M2 12h3M19 12h3M5 5l2 2M17 17l2 2M5 19l2-2M17 7l2-2",
  dark: "M20 14A8 8 0 1110 4a6.500 6.500 0 0010 10z", system: "M3 5h18v11H3zM8 20h8M12 16v4",
  out: "M14 4H5v16h9M10 12h11M17 8l4 4-4 4",
};
/** @param {{name: string}} props */
const Icon = ({ name }) => html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d=${SHAPES[/** @type {keyof SHAPES} */ (name)]} /></svg>`;

function App() {
  useEffect(() => {
    if (signedIn.value === true) start();
  }, [signedIn.value]);
  if (signedIn.value === null) return html`<div class="boot"><${Tail} /></div>`;
  if (!signedIn.value) return html`<${SignIn} />`;
  return html`<${Frame} />`;
}

render(html`<${App} />`, /** @type {HTMLElement} */ (document.getElementById("app")));
get("overview").then(
  (seen) => { overview.value = seen; signedIn.value = true; },
  () => { signedIn.value = false; },
);
