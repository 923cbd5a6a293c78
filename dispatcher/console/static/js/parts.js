// The small pieces that all pages are made of.

import { h } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import htm from "htm";
import { GROUP, count, duration, age, moment } from "./format.js";
import { now, overview } from "./live.js";
import { link } from "./query.js";

export const html = htm.bind(h);

/** A state as a word with its colour and its mark: colour is never all that tells. @param {{state: string, group?: string}} props */
export const State = ({ state, group }) => html`<span class="state" data-group=${group ?? GROUP[state] ?? state}>${state}</span>`;

/** How long ago, ticking; "ago" is said of the past. @param {{at: number | null | undefined, limit?: number, past?: boolean}} props */
export const Ago = ({ at, limit = Infinity, past = false }) => {
  if (!at) return html`<span class="dim">–</span>`;
  const seconds = now.value - at;
  return html`<time class=${seconds > limit ? "late" : ""} title=${moment(at)}>${age(seconds)}${past && seconds >= 1 ? " ago" : ""}</time>`;
};

/** @param {{title: any, note?: any, class?: string, children?: any, id?: string}} props */
export const Card = ({ title, note, children, id, class: cls = "" }) => html`
  <section class=${`card ${cls}`} id=${id} aria-label=${typeof title === "string" ? title : undefined}>
    <header><h2>${title}</h2>${note && html`<div class="note">${note}</div>`}</header>
    ${children}
  </section>`;

/** Parts of a whole as one bar, each with its group and, where that is no word for it, a word.
 *  @param {{parts: [string, number, string?][], label: string, total?: number}} props */
export function Bar({ parts, label, total }) {
  const sum = total ?? parts.reduce((all, [, n]) => all + n, 0);
  const said = parts.filter(([, n]) => n).map(([name, n, word]) => `${count(n)} ${word ?? name}`).join(", ");
  return html`<div class="bar" role="img" aria-label=${`${label}: ${said || "none"}`} title=${said}>
    ${sum > 0 && parts.filter(([, n]) => n > 0).map(([name, n]) =>
      html`<i key=${name} data-group=${name} style=${{ flexGrow: n / sum }}></i>`)}
  </div>`;
}

/** @param {{values: number[], tone: string, label: string}} props */
export function Spark({ values, tone, label }) {
  if (values.length < 2) return html`<svg class="spark" aria-hidden="true"></svg>`;
  const top = Math.max(...values, 1e-9);
  const points = values.map((v, at) => `${((at / (values.length - 1)) * 100).toFixed(2)},${(29 - (v / top) * 26).toFixed(2)}`);
  return html`<svg class="spark" data-group=${tone} viewBox="0 0 100 30" preserveAspectRatio="none" role="img" aria-label=${label}>
    <path class="area" d=${`M0,30 L${points.join(" L")} L100,30 Z`} />
    <path class="edge" d=${`M${points.join(" L")}`} />
  </svg>`;
}

/** What fills an empty page. @param {{children?: any, command?: string}} props */
export const Empty = ({ children, command }) => html`
  <div class="empty"><${Tail} /><p>${children}</p>${command && html`<${Command} text=${command} />`}</div>`;

/** A command to copy. @param {{text: string}} props */
export function Command({ text }) {
  const [copied, setCopied] = useState(false);
  const copy = () => navigator.clipboard?.writeText(text).then(() => {
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  });
  return html`<span class="command"><code>${text}</code>
    <button type="button" class="quiet" onClick=${copy} aria-label="Copy the command">${copied ? "copied" : "copy"}</button></span>`;
}

/** A problem in words, with what helps. @param {{error: any}} props */
export const Trouble = ({ error }) => error && html`
  <div class="trouble" role="alert"><strong>${error.message}</strong>
    ${error.detail && html`<p>${error.detail}</p>`}${error.remedy && html`<p class="remedy">${error.remedy}</p>`}</div>`;

/** @param {{id: number, children?: any}} props */
export const JobLink = ({ id, children }) => html`<a href=${link({ id })}>${children ?? id}</a>`;

/** Seconds, as time between two moments. @param {{from: number, to: number | null | undefined}} props */
export const Span = ({ from, to }) => html`<span>${duration((to ?? now.value) - from)}</span>`;

/** What the loader returns, again whenever `key` changes. @template T
 *  @param {() => Promise<T>} loader @param {any[]} key @returns {[T | null, any, () => void]} */
export function useLoaded(loader, key) {
  const [state, setState] = useState({ value: /** @type {T | null} */ (null), error: /** @type {any} */ (null) });
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    let current = true;
    loader().then(
      (value) => current && setState({ value, error: null }),
      (error) => current && setState((old) => ({ value: old.value, error })),
    );
    return () => { current = false; };
  }, [...key, turn]);
  return [state.value, state.error, () => setTurn((n) => n + 1)];
}

/** What a loader returns, again when the sums of the jobs move, and every so many seconds if that is said; at most once
 *  a second, and not while nobody looks. @param {() => Promise<any>} load @param {string} key @param {number} [every] */
export function useLive(load, key, every = 0) {
  const [seen, setSeen] = useState(/** @type {any} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  const asked = useRef({ key: "", at: 0, turn: 0, shown: 0 });
  const sums = JSON.stringify(overview.value?.states ?? {});
  const beat = every && Math.floor(now.value / every);
  useEffect(() => () => { asked.current.key = ""; }, []);
  useEffect(() => {
    const { current } = asked;
    const other = current.key !== key;
    current.key = key;
    if (document.hidden && !other) return undefined;
    // What was asked for before is still an answer: only a later one, or another question, makes it none.
    const planned = setTimeout(() => {
      current.at = Date.now();
      const turn = current.turn += 1;
      const counts = () => current.key === key && turn > current.shown;
      load().then(
        (answer) => { if (counts()) { current.shown = turn; setSeen({ key, answer }); setError(null); } },
        (fault) => { if (counts()) setError(fault); },
      );
    }, other ? 0 : Math.max(0, 1000 - (Date.now() - current.at)));
    return () => clearTimeout(planned);
  }, [key, sums, beat]);
  return { seen: seen?.key === key ? seen.answer : null, error, set: (/** @type {any} */ answer) => setSeen({ key, answer }) };
}

/** Ways to the next page of a list and back to the first; each is a link.
 *  @param {{place: any, name: string, next: any, words?: [string, string]}} props `name`: the parameter that says where a page begins */
export const Pages = ({ place, name, next, words = ["Newest", "Older"] }) => {
  const to = (/** @type {any} */ at) => link({ ...place, params: { ...place.params, [name]: at } });
  const begun = place.params[name];
  return (begun || next !== null) && html`<p class="pages">${begun && html`<a href=${to("")}>${words[0]}</a>`} ${next !== null && html`<a href=${to(String(next))}>${words[1]}</a>`}</p>`;
};

/** The sign of the house: a ringed tail. */
export const Tail = () => html`<i class="tail" aria-hidden="true"></i>`;
