// Steps of a task: how fast it goes, and how its steps hang together. Pure.

/** So long, and so many items, are watched before that rate is believed. */
const WATCHED_S = 30, WATCHED = 5;

/** Sums over steps. @param {any[]} steps */
export const totals = (steps) => {
  const sum = (/** @type {string} */ field) => steps.reduce((all, step) => all + step[field], 0);
  return { finished: sum("finished"), failed: sum("failed"), open: sum("open"), waiting: sum("waiting"), items: sum("items") };
};

/** How many items end in a second, and in how many seconds the rest will have; null: that cannot be told.
 *  @param {any} row @param {number} now @param {{at: number, ended: number}} first what was seen first */
export function pace(row, now, first) {
  const { finished, failed, open, waiting } = totals(row.steps);
  const ended = finished + failed;
  const watched = now - first.at >= WATCHED_S && ended - first.ended >= WATCHED;
  const rate = watched ? (ended - first.ended) / (now - first.at) : ended / Math.max(1, now - row.created);
  const known = row.steps.every((/** @type {any} */ step) => step.closed);
  const left = row.state === "running" && known && rate > 0 ? (open + waiting) / rate : null;
  return { ended, rate, watched, left, known };
}

/** A rate as people say it. @param {number} rate items in a second */
export function rated(rate) {
  const [each, unit] = rate >= 1 ? [rate, "second"] : rate >= 1 / 60 ? [rate * 60, "minute"] : [rate * 3600, "hour"];
  return `${each < 10 ? each.toFixed(1) : Math.round(each).toLocaleString("en-US")} ${unit === "hour" ? "an" : "a"} ${unit}`;
}

/** Which steps a step takes from or waits for. @param {any} step @returns {{name: string, gate: boolean}[]} */
export const before = (step) => [
  ...[step.over?.outputs ?? []].flat().map((name) => ({ name, gate: false })),
  ...(step.gate?.after ? [{ name: step.gate.after.split(" ")[0], gate: true }] : []),
];

/** Each step right of all that it comes after. @param {any[]} steps
 *  @returns {{boxes: {name: string, column: number, row: number}[], lines: {from: number, to: number, gate: boolean}[]}} */
export function layered(steps) {
  const at = new Map(steps.map((step, nr) => [step.name, nr]));
  /** @type {{name: string, column: number, row: number}[]} */
  const boxes = [];
  /** @type {number[]} */
  const filled = [];
  const lines = steps.flatMap((step, to) => before(step).flatMap(({ name, gate }) => {
    const from = at.get(name);
    return from === undefined || from >= to ? [] : [{ from, to, gate }];
  }));
  for (const [nr, step] of steps.entries()) {
    const column = lines.reduce((most, line) => (line.to === nr ? Math.max(most, boxes[line.from].column + 1) : most), 0);
    boxes.push({ name: step.name, column, row: filled[column] ?? 0 });
    filled[column] = (filled[column] ?? 0) + 1;
  }
  return { boxes, lines };
}
