// What a list does with news: rows change in place, new ones come on top, nothing jumps. Pure.

/** @typedef {{job_id: number, state: string, [key: string]: any}} Row */

/** @param {Row} row @param {Record<string, string>} filter as the API takes it */
export function matches(row, filter) {
  const name = filter.name ?? "";
  return (
    (!filter.state || filter.state.split(",").includes(row.state)) &&
    (!filter.queue || row.queue === filter.queue) &&
    (!filter.user || row.user === filter.user) &&
    (!filter.code || row.code === Number(filter.code)) &&
    (!filter.kind || row.state === "failed") && // which kind it is of, only the dispatcher knows, as it knows `query`
    (!name || (name.endsWith("*") ? row.name.startsWith(name.slice(0, -1)) : row.name === name))
  );
}

/** The list after `news`. A row that no longer matches stays, marked `left`, until the reader moves:
 *  what one is about to click must not slide away. @param {Row[]} rows newest first @param {Row[]} news
 *  @param {Record<string, string>} filter @returns {Row[]} */
export function merged(rows, news, filter) {
  if (!news.length) return rows;
  const known = new Map(rows.map((row, index) => [row.job_id, index]));
  const out = rows.slice();
  const fresh = [];
  const top = rows.length ? rows[0].job_id : 0;
  for (const row of news) {
    const at = known.get(row.job_id);
    if (at !== undefined) out[at] = matches(row, filter) ? row : { ...row, left: true };
    else if (row.job_id > top && matches(row, filter)) fresh.push(row);
  }
  fresh.sort((a, b) => b.job_id - a.job_id);
  return fresh.length ? [...fresh, ...out] : out;
}

/** Which rows a window shows, with a margin above and below. @param {number} scrollTop
 *  @param {number} height @param {number} rowHeight @param {number} total */
export function visible(scrollTop, height, rowHeight, total, margin = 8) {
  const first = Math.max(0, Math.floor(scrollTop / rowHeight) - margin);
  const last = Math.min(total, Math.ceil((scrollTop + height) / rowHeight) + margin);
  return { first: Math.min(first, last), last };
}
