// Numbers and times as people read them. Pure.

/** @param {number} n */
export const count = (n) => n.toLocaleString("en-US");

/** A count that fits a tile: 12,345 → 12.3k. @param {number} n */
export function short(n) {
  if (n < 10_000) return count(n);
  if (n < 1_000_000) return `${(n / 1000).toFixed(n < 100_000 ? 1 : 0)}k`;
  return `${(n / 1_000_000).toFixed(1)}M`;
}

/** Seconds as two units at most: 0.4 s, 12 s, 3 m 05 s, 2 h 10 m, 4 d 3 h. @param {number} seconds */
export function duration(seconds) {
  const s = Math.max(0, seconds);
  if (s < 0.0995) return `${Math.round(s * 1000)} ms`;
  if (s < 9.95) return `${s.toFixed(1)} s`;
  if (s < 59.5) return `${Math.round(s)} s`;
  const whole = Math.round(s);
  const pad = (/** @type {number} */ n) => String(n).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)} m ${pad(whole % 60)} s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${pad(Math.floor((whole % 3600) / 60))} m`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`;
}

/** How long ago: whole seconds, so that it ticks instead of flickering. @param {number} seconds */
export function age(seconds) {
  if (seconds < 1) return "now";
  return seconds < 10 ? `${Math.floor(seconds)} s` : duration(seconds);
}

/** @param {number} bytes */
export function bytes(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let step = 0;
  let value = Math.max(0, bytes);
  while (value >= 1024 && step < units.length - 1) {
    value /= 1024;
    step += 1;
  }
  return `${step === 0 || value >= 100 ? Math.round(value) : value.toPrecision(3).replace(/\.?0+$/, "")} ${units[step]}`;
}

/** How far the files of an attempt have come, how fast, and how long the rest takes at that rate.
 *  @param {{files?: number, done?: number, moved_bytes?: number, total_bytes?: number | null, seconds?: number}} staging */
export function staged({ files = 0, done = 0, moved_bytes: moved = 0, total_bytes: total = null, seconds = 0 }) {
  const rate = seconds > 0 ? moved / seconds : 0;
  const parts = [`${count(done)} of ${count(files)} files`, total === null ? bytes(moved) : `${bytes(moved)} of ${bytes(total)}`];
  if (rate >= 1) parts.push(`${bytes(rate)}/s`);
  if (rate >= 1 && total !== null && total > moved) parts.push(`${duration((total - moved) / rate)} left`);
  return parts.join(", ");
}

/** @param {number} mb mebibytes */
export const megabytes = (mb) => bytes(mb * 1024 * 1024);

/** A moment in the reader's own time zone, for `title` and tables. @param {number | null | undefined} at */
export function moment(at) {
  if (!at) return "–";
  const then = new Date(at * 1000);
  const pad = (/** @type {number} */ n) => String(n).padStart(2, "0");
  const day = `${then.getFullYear()}-${pad(then.getMonth() + 1)}-${pad(then.getDate())}`;
  return `${day} ${pad(then.getHours())}:${pad(then.getMinutes())}:${pad(then.getSeconds())}`;
}

/** PanDA's fourteen states in the seven groups that the console draws. @type {Record<string, string>} */
export const GROUP = {
  pending: "blocked", defined: "waiting", assigned: "waiting", activated: "waiting",
  sent: "staging", starting: "staging", running: "running",
  holding: "reporting", merging: "reporting", transferring: "reporting",
  finished: "finished", failed: "failed", cancelled: "cancelled", closed: "cancelled",
};
export const GROUPS = ["blocked", "waiting", "staging", "running", "reporting", "finished", "failed", "cancelled"];
export const FINAL = new Set(["finished", "failed", "cancelled", "closed"]);

/** Counts by state → counts by group, every group present. @param {Record<string, number>} states */
export function grouped(states) {
  /** @type {Record<string, number>} */
  const sums = Object.fromEntries(GROUPS.map((group) => [group, 0]));
  for (const [state, jobs] of Object.entries(states)) sums[GROUP[state] ?? "waiting"] += jobs;
  return sums;
}

/** The states of a group, as the API's filter takes them. @param {string} group */
export const statesOf = (group) =>
  Object.keys(GROUP).filter((state) => GROUP[state] === group).join(",");
