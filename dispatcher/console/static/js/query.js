// A view's state ⇄ the address: `#/jobs?state=failed&queue=x`. Pure, so that any view is a link.

/** @typedef {{page: string, id: number | null, params: Record<string, string>}} Place */

/** The pages by their names in addresses: what the navigation calls each, and its key after `g`. A
 *  job's own page is `jobs/ID`, and so on. `main.js` has what draws each. */
export const PAGES = {
  overview: { title: "Overview", key: "o" },
  jobs: { title: "Jobs", key: "j" },
  submissions: { title: "Submissions", key: "s" },
  tasks: { title: "Tasks", key: "t" },
  pilots: { title: "Pilots", key: "p" },
  queues: { title: "Queues", key: "q" },
  failures: { title: "Failures", key: "f" },
  usage: { title: "Usage", key: "u" },
};

/** @param {string} hash @returns {Place} */
export function parse(hash) {
  const [path, search = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [name, id] = path.split("/", 2);
  const params = Object.fromEntries(new URLSearchParams(search));
  const own = { jobs: "job", submissions: "submission", tasks: "task", pilots: "worker" }[name];
  if (own && /^\d{1,15}$/.test(id ?? "")) return { page: own, id: Number(id), params };
  return { page: Object.hasOwn(PAGES, name) ? name : "overview", id: null, params };
}

/** @param {Partial<Place>} place */
export function link({ page = "overview", id = null, params = {} }) {
  const kept = Object.entries(params).filter(([, value]) => value !== "" && value !== null);
  const search = new URLSearchParams(kept).toString();
  const path = id === null ? (page === "overview" ? "" : page) : `${{ worker: "pilots", submission: "submissions", task: "tasks" }[page] ?? "jobs"}/${id}`;
  return `#/${path}${search ? `?${search}` : ""}`;
}

const FIELDS = ["state", "queue", "user", "code", "kind", "name"];
// One field with one value, as chips show it; a state may be several.
const PLAIN = /^(?:(queue|user|name):([\w.+@=-]+\*?)|(state):([a-z,]+)|(code|error|kind):(\d+))$/;

/** What a person types → what the API takes. A number alone is a job. What chips can show becomes
 *  fields of the filter, and only the rest, with words of the language in it all of it, `query`.
 *  @param {string} text @returns {{filter: Record<string, string>, job: number | null}} */
export function understand(text) {
  const whole = text.trim();
  if (/^#?\d{1,15}$/.test(whole)) return { filter: {}, job: Number(whole.replace("#", "")) };
  /** @type {Record<string, string>} */
  const filter = {};
  for (const word of whole.split(/\s+/).filter(Boolean)) {
    const [, ...found] = PLAIN.exec(word) ?? (/^[A-Za-z_][\w.-]*\*?$/.test(word) && !/^(or|and|not)$/i.test(word) ? ["", "name", word.endsWith("*") ? word : `${word}*`] : []);
    const [field, value] = found.filter(Boolean);
    const key = field === "error" ? "code" : field;
    if (!key || filter[key] || /^state:.*(open|final)/.test(word)) return { filter: { query: whole }, job: null };
    filter[key] = value;
  }
  return { filter, job: null };
}

/** The filter as a person would type it. @param {Record<string, string>} params */
export function spoken(params) {
  const fields = FIELDS.filter((key) => params[key]).map((key) => `${key}:${params[key]}`).join(" ");
  if (!params.query) return fields;
  return fields ? `${fields} (${params.query})` : params.query;
}

/** The same list on the command line. @param {Record<string, string>} params */
export const asCommand = (params) => ["dispatcher jobs", ...(spoken(params) ? [quoted(spoken(params))] : [])].join(" ");

/** @param {string} text */
export const quoted = (text) => (/^[\w.,:@=+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
