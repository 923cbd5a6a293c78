// Where each second of a job went: its times → segments to draw. Pure.

/** @typedef {{kind: string, from: number, to: number, live: boolean}} Segment */
/** @typedef {{attempt_nr: number, segments: Segment[]}} Lane */

export const KINDS = {
  blocked: "waited for other jobs",
  batch: "waited for its pilot to come",
  waiting: "waited in the queue",
  staging: "staged in",
  running: "ran",
  reporting: "staged out and reported",
};

/** The lanes of a job, one an attempt, and one that waits where the job is not with a worker.
 *  @param {any} detail JobDetail
 *  @param {number} now
 *  @returns {Lane[]} */
export function lanes(detail, now) {
  const { row, attempts } = detail;
  const final = ["finished", "failed", "cancelled", "closed"].includes(row.state);
  /** @type {Lane[]} */
  const out = [];
  let cursor = row.created;
  for (const attempt of attempts) {
    const segments = /** @type {Segment[]} */ ([]);
    waits(segments, cursor, attempt.leased, detail.activated, attempt.registered ?? undefined);
    carry(segments, attempt, now);
    out.push({ attempt_nr: attempt.attempt_nr, segments: segments.filter((s) => s.to > s.from || s.live) });
    cursor = attempt.ended ?? now;
  }
  const last = attempts[attempts.length - 1];
  if (!final && (!last || last.ended)) {
    const segments = /** @type {Segment[]} */ ([]);
    waits(segments, cursor, now, detail.activated, undefined);
    const open = segments[segments.length - 1];
    if (open) open.live = true;
    out.push({ attempt_nr: (last?.attempt_nr ?? 0) + 1, segments });
  } else if (final && !attempts.length) {
    const segments = /** @type {Segment[]} */ ([]);
    waits(segments, cursor, row.changed, detail.activated, undefined);
    out.push({ attempt_nr: 0, segments });
  }
  return out;
}

/** Blocked by parents, then no pilot was there yet, then all pilots were busy.
 *  @param {Segment[]} out @param {number} from @param {number} to
 *  @param {number | null | undefined} activated @param {number | undefined} pilotSince */
function waits(out, from, to, activated, pilotSince) {
  let at = from;
  const step = (/** @type {string} */ kind, /** @type {number} */ until) => {
    if (until > at) out.push({ kind, from: at, to: (at = until), live: false });
  };
  // `activated` is the last time the job became ready: after a lost attempt it lies past this wait
  if (activated && activated <= to) step("blocked", activated);
  else if (!activated) step("blocked", to);
  if (pilotSince !== undefined) step("batch", Math.min(to, pilotSince));
  step("waiting", to);
}

/** @param {Segment[]} out @param {any} attempt @param {number} now */
function carry(out, attempt, now) {
  const live = !attempt.ended;
  const end = attempt.ended ?? now;
  const marks = [
    ["staging", attempt.leased],
    ["running", attempt.running],
    ["reporting", attempt.holding],
  ].filter(([, at]) => at !== null && at !== undefined);
  marks.forEach(([kind, at], index) => {
    const to = index + 1 < marks.length ? marks[index + 1][1] : end;
    const last = live && index === marks.length - 1;
    // a job that was fetched ahead waits, staged in, for its slot: the pilot says how long
    const slot = kind === "staging" && attempt.running ? Math.min(attempt.timing?.wait ?? 0, to - at) : 0;
    out.push({ kind, from: at, to: Math.max(at, to - slot), live: last });
    if (slot > 0) out.push({ kind: "waiting", from: to - slot, to, live: false });
  });
}

/** Seconds by kind over all lanes, in the order of KINDS. @param {Lane[]} all
 *  @returns {[string, number][]} */
export function totals(all) {
  const sums = new Map(Object.keys(KINDS).map((kind) => [kind, 0]));
  for (const lane of all)
    for (const { kind, from, to } of lane.segments) sums.set(kind, (sums.get(kind) ?? 0) + to - from);
  return [...sums].filter(([, seconds]) => seconds > 0);
}
