// A view's state ⇄ the address: `#/jobs?state=failed&queue=x`. Pure, so that any view is a link.

/** @typedef {{page: string, id: number | null, params: Record<string, string>}} Place */

/** The pages by their names in addresses: what the navigation calls each, and its key after `g`. A
 *  job's own page is `jobs/ID`, a pilot's `pilots/ID`. `main.js` has what draws each. */
export const PAGES = {
  overview: { title: "Overview", key: "o" },
  jobs: { title: "Jobs", key: "j" },
  pilots: { title: "Pilots", key: "p" },
  queues: { title: "Queues", key: "q" },
};

/** @param {string} hash @returns {Place} */
export function parse(hash) {
  const [path, search = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [name, id] = path.split("/", 2);
  const params = Object.fromEntries(new URLSearchParams(search));
  const own = { jobs: "job", pilots: "worker" }[name];
  if (own && /^\d{1,15}$/.test(id ?? "")) return { page: own, id: Number(id), params };
  return { page: Object.hasOwn(PAGES, name) ? name : "overview", id: null, params };
}

/** @param {Partial<Place>} place */
export function link({ page = "overview", id = null, params = {} }) {
  const kept = Object.entries(params).filter(([, value]) => value !== "" && value !== null);
  const search = new URLSearchParams(kept).toString();
  const path = id === null ? (page === "overview" ? "" : page) : `${page === "worker" ? "pilots" : "jobs"}/${id}`;
  return `#/${path}${search ? `?${search}` : ""}`;
}

const FIELDS = ["state", "queue", "user", "code", "kind", "name"];

/** What a person types → the API's filter: `state:failed queue:x 1099 name*`. A bare number is a job,
 *  a bare word a name's beginning. @param {string} text
 *  @returns {{filter: Record<string, string>, job: number | null, odd: string[]}} */
export function understand(text) {
  /** @type {Record<string, string>} */
  const filter = {};
  const odd = [];
  let job = null;
  for (const word of text.trim().split(/\s+/).filter(Boolean)) {
    const [field, ...rest] = word.split(":");
    const value = rest.join(":");
    if (rest.length && (field === "error" ? "code" : field) && FIELDS.includes(field === "error" ? "code" : field)) {
      const key = field === "error" ? "code" : field;
      if ((key === "code" || key === "kind") && !/^\d+$/.test(value)) odd.push(word);
      else if (value) filter[key] = value;
    } else if (/^#?\d+$/.test(word)) job = Number(word.replace("#", ""));
    else if (rest.length) odd.push(word);
    else filter.name = word.endsWith("*") ? word : `${word}*`;
  }
  return { filter, job, odd };
}

/** The filter as a person would type it. @param {Record<string, string>} params */
export const spoken = (params) =>
  FIELDS.filter((key) => params[key]).map((key) => `${key}:${params[key]}`).join(" ");

/** The same list on the command line. @param {Record<string, string>} params */
export const asCommand = (params) =>
  ["dispatcher jobs", ...FIELDS.filter((key) => params[key]).map((key) => `--${key} ${quoted(params[key])}`)].join(" ");

/** @param {string} text */
const quoted = (text) => (/^[\w.,:@=+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
