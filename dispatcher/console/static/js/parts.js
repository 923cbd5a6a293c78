// The small pieces that all pages are made of.

import { h } from "preact";
import { useEffect, useState } from "preact/hooks";
import htm from "htm";
import { GROUP, count, duration, age, moment } from "./format.js";
import { now } from "./live.js";
import { link } from "./query.js";

export const html = htm.bind(h);

/** A state as a word with its colour and its mark: colour is never all that tells. @param {{state: string}} props */
export const State = ({ state }) => html`<span class="state" data-group=${GROUP[state] ?? state}>${state}</span>`;

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

/** Parts of a whole as one bar. @param {{parts: [string, number][], label: string, total?: number}} props */
export function Bar({ parts, label, total }) {
  const sum = total ?? parts.reduce((all, [, n]) => all + n, 0);
  const said = parts.filter(([, n]) => n).map(([name, n]) => `${count(n)} ${name}`).join(", ");
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

/** The sign of the house: a ringed tail. */
export const Tail = () => html`
  <svg class="tail" viewBox="4 5 56 52" aria-hidden="true">
    <path class="fur" d="M12 54 C4 30 18 8 40 9 C54 10 60 22 54 32 C49 40 39 38 38 31 C37 26 41 24 44 26 C40 20 28 22 25 34 C23 43 26 49 29 54 Z" />
    <path class="ring" d="M9.5 44 C15 42.500 20 42.600 24.800 44.200 L24 37.500 C19.500 36 14.500 36 8.800 37.500 Z" />
    <path class="ring" d="M10 30 C15.500 30.200 21 31.800 25.700 34 L29.500 28.200 C24.500 25.200 19 23.600 12.700 23.400 Z" />
    <path class="ring" d="M18.500 16.200 C24 17.600 29 20.700 32.600 25.100 L38.600 23.300 C35.500 17.700 30.500 13.200 24.500 11.600 Z" />
    <path class="ring" d="M35 9.300 C38.500 12.600 41.200 17.600 42.200 23.500 L47.600 26 C47.500 19 45.400 13.500 42.400 9.200 Z" />
    <path class="ring" d="M52 15.500 C50.500 19.500 48.800 23.500 46.600 29 L50.800 36 C56.500 30 57.500 22 52 15.500 Z" />
  </svg>`;
