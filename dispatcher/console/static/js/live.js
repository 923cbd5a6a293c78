// One stream of server-sent events a page. Components say which topics they look at; the stream is
// reopened when that set changes, and let go while nobody sees the page: browsers allow six
// connections a host over all tabs.

import { batch, signal } from "@preact/signals";
import { address, get, signedIn } from "./api.js";

const SILENT_S = 40; // the dispatcher says something at least each 15 s
const RETRY_S = [1, 2, 4, 8, 15];

/** connecting | live | reconnecting | stale | paused */
export const status = signal("connecting");
export const heardAt = signal(0);
/** The whole system, kept fresh on every page. */
export const overview = signal(/** @type {any} */ (null));
/** The dispatcher's time; ticks each second so that ages do. */
export const now = signal(Date.now() / 1000);
/** Points of the flow since the page opened, for the sparklines. */
export const history = signal(/** @type {{at: number, finished: number, failed: number, running: number, waiting: number}[]} */ ([]));

let skew = 0; // the dispatcher's clock minus ours
/** @type {EventSource | null} */
let source = null;
let opened = ""; // the topics of `source`
let failures = 0;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let again;
/** @type {Map<string, Set<(data: any) => void>>} */
const listeners = new Map();

/** Hear of `topic` until the returned function is called.
 *  @param {string} topic @param {(data: any) => void} listener */
export function listen(topic, listener) {
  const set = listeners.get(topic) ?? new Set();
  listeners.set(topic, set.add(listener));
  if (opened.split(",").includes(topic) && set.size > 1) open(true); // a late listener needs its snapshot
  else open();
  return () => {
    set.delete(listener);
    if (!set.size) listeners.delete(topic);
    open();
  };
}

let planned = false;
/** (Re)open the stream if the topics changed; once for all changes of this moment. */
function open(force = false) {
  if (force) opened = "";
  if (planned) return;
  planned = true;
  setTimeout(() => {
    planned = false;
    const topics = ["overview", ...[...listeners.keys()].sort()].join(",");
    if (document.hidden || signedIn.value === false || (topics === opened && source)) return;
    connect(topics);
  }, 0);
}

/** @param {string} topics */
function connect(topics) {
  close();
  opened = topics;
  source = new EventSource(address("stream", { topics }), { withCredentials: true });
  for (const kind of ["overview", "jobs", "workers", "job", "log", "beat"])
    source.addEventListener(kind, (event) => heard(kind, JSON.parse(/** @type {MessageEvent} */ (event).data)));
  source.onerror = () => lost();
}

function close() {
  clearTimeout(again);
  source?.close();
  source = null;
}

/** @param {string} kind @param {any} data */
function heard(kind, data) {
  batch(() => {
    failures = 0;
    heardAt.value = Date.now() / 1000;
    status.value = "live";
    if (data.now) skew = data.now - Date.now() / 1000;
    if (kind === "overview") {
      overview.value = data;
      remember(data);
    }
    const topic = kind === "job" || kind === "log" ? `${kind}:${data.job_id}` : kind;
    for (const listener of listeners.get(topic) ?? []) listener(data);
  });
}

/** @param {any} seen */
function remember(seen) {
  const states = seen.states;
  const sum = (/** @type {string[]} */ ...names) => names.reduce((total, name) => total + (states[name] ?? 0), 0);
  const point = {
    at: seen.now, finished: seen.finished_per_min, failed: seen.failed_per_min,
    running: sum("sent", "starting", "running", "holding", "merging", "transferring"),
    waiting: sum("pending", "defined", "assigned", "activated"),
  };
  const kept = history.value.filter((old) => old.at > seen.now - 600);
  const last = kept[kept.length - 1];
  history.value = last && point.at - last.at < 1 ? [...kept.slice(0, -1), { ...point, at: last.at }] : [...kept, point];
}

async function lost() {
  close();
  if (document.hidden) return;
  status.value = "reconnecting";
  const wait = RETRY_S[Math.min(failures, RETRY_S.length - 1)];
  failures += 1;
  // An EventSource does not say why it failed: ask. A session that ended shows the sign-in page.
  await get("overview").catch(() => undefined);
  clearTimeout(again);
  if (signedIn.value !== false) again = setTimeout(() => connect(opened), wait * 1000 * (0.5 + Math.random()));
}

/** Begin, after signing in. */
export function start() {
  failures = 0;
  status.value = "connecting";
  open(true);
}

export function stop() {
  close();
  opened = "";
  overview.value = null;
  history.value = [];
}

document.addEventListener("visibilitychange", () => {
  if (signedIn.value !== true) return;
  if (document.hidden) {
    close();
    opened = "";
    status.value = "paused";
  } else start();
});

setInterval(() => {
  now.value = Date.now() / 1000 + skew;
  if (source && heardAt.value && Date.now() / 1000 - heardAt.value > SILENT_S) {
    status.value = "stale";
    if (source.readyState !== EventSource.CONNECTING) connect(opened);
  }
}, 1000);
