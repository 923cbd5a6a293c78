// A list of jobs that stays true: loaded by pages, patched by the stream.

import { useEffect, useRef, useState } from "preact/hooks";
import { get } from "./api.js";
import { listen } from "./live.js";
import { merged } from "./rows.js";

/** @typedef {{rows: any[], next: number | null, error: any, loading: boolean, more: () => void, cut: boolean, fresh: number, show: () => void}} JobList */

/** @param {Record<string, string>} filter @param {number} [limit]
 *  @param {() => boolean} [atTop] whether new rows may come in by themselves
 *  @returns {JobList} */
export function useJobs(filter, limit = 100, atTop = () => true) {
  const key = JSON.stringify(filter);
  const [list, setList] = useState({ rows: /** @type {any[]} */ ([]), next: /** @type {number | null} */ (null), error: /** @type {any} */ (null), cut: false, loading: true });
  const [fresh, setFresh] = useState(0);
  const live = useRef(list);
  live.current = list;
  const busy = useRef(false);

  const reload = async () => {
    const page = await get("jobs", { ...filter, limit });
    setFresh(0);
    setList((old) => {
      // what was loaded below the first page stays; the first page is what the dispatcher says now
      const last = page.jobs.length ? page.jobs[page.jobs.length - 1].job_id : 0;
      const below = page.next === null ? [] : old.rows.filter((row) => row.job_id < last);
      return { rows: [...page.jobs, ...below], next: below.length ? old.next : page.next, cut: Boolean(page.cut), error: null, loading: false };
    });
  };

  useEffect(() => {
    let current = true;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let planned;
    setList({ rows: [], next: null, error: null, cut: false, loading: true });
    const load = () => reload().catch((error) => current && setList((old) => ({ ...old, error, loading: false })));
    load();
    const stop = listen("jobs", (data) => {
      const { rows } = live.current;
      const known = new Map(rows.map((row) => [row.job_id, row]));
      const patched = data.changes.filter((/** @type {any} */ c) => known.has(c.job_id)).map((/** @type {any} */ c) => ({ ...known.get(c.job_id), ...c }));
      if (patched.length) setList((old) => ({ ...old, rows: merged(old.rows, patched, filter) }));
      const strangers = data.changes.filter((/** @type {any} */ c) => !known.has(c.job_id) && (!filter.state || filter.state.split(",").includes(c.state)) && (!filter.kind || c.state === "failed"));
      const news = data.submitted + strangers.length;
      if (!(news || data.reload || patched.some((/** @type {any} */ row) => filter.query || row.state === "failed")) || planned) return;
      // one request for all the news of a second, and not all pages at the same moment
      planned = setTimeout(() => {
        planned = undefined;
        if (!current) return;
        if (atTop()) load();
        else setFresh((n) => n + news);
      }, 300 + Math.random() * 500);
    });
    return () => {
      current = false;
      clearTimeout(planned);
      stop();
    };
  }, [key, limit]);

  const more = async () => {
    if (busy.current || live.current.next === null) return;
    busy.current = true;
    try {
      const page = await get("jobs", { ...filter, limit, before: live.current.next });
      setList((old) => ({ ...old, rows: [...old.rows, ...page.jobs], next: page.next, cut: Boolean(page.cut) }));
    } catch (error) {
      setList((old) => ({ ...old, error }));
    }
    busy.current = false;
  };
  return { ...list, more, fresh, show: () => void reload().catch(() => undefined) };
}
