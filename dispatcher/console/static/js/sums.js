// Sums of core-seconds → what a page shows of them. Pure.

import { quoted } from "./query.js";

export const HOUR = 3600;
/** Days of each range. */
export const RANGES = { "24h": 1, "7d": 7, "30d": 30, "1y": 365 };

/** Core-seconds as hours, in three digits or more. @param {number} seconds */
export function coreHours(seconds) {
  const hours = seconds / HOUR;
  return hours >= 100 || hours === 0 ? Math.round(hours).toLocaleString("en-US") : String(Number(hours.toPrecision(3)));
}

/** @param {number} part @param {number} whole */
export const share = (part, whole) => (whole > 0 ? `${Math.round((100 * part) / whole)}%` : "–");

/** The amounts that there are, the greatest first. @param {Record<string, number>} sums @returns {[string, number][]} */
export const most = (sums) => Object.entries(sums).filter(([, s]) => s > 0).sort((one, other) => other[1] - one[1]);

// how much of an ISO time names a column
const NAMED = { "24h": 13, "7d": 10, "30d": 10, "1y": 7 };

/** A column for each hour, day or month of a range, with those without any.
 *  @param {{at: number, span: string, core_s: Record<string, number>}[]} overTime @param {string} range
 *  @param {number} since @param {number} until
 *  @returns {{at: string, parts: Record<string, number>}[]} */
export function columns(overTime, range, since, until) {
  const digits = NAMED[/** @type {keyof NAMED} */ (range)] ?? 10;
  const name = (/** @type {number} */ at) => new Date(1000 * at).toISOString().slice(0, digits).replace("T", " ") + (digits === 13 ? ":00" : "");
  /** @type {Map<string, Record<string, number>>} */
  const found = new Map();
  const step = digits === 13 ? HOUR : 24 * HOUR;
  for (let at = since; at < until; at += step) found.set(name(at), {});
  for (const { at, core_s: parts } of overTime) {
    const there = found.get(name(at)) ?? {};
    for (const [outcome, s] of Object.entries(parts)) there[outcome] = (there[outcome] ?? 0) + s;
    found.set(name(at), there);
  }
  return [...found].map(([at, parts]) => ({ at, parts }));
}

/** The same on the command line. @param {Record<string, string>} asked */
export const asUsage = ({ by, range, ...only }) =>
  ["dispatcher usage --by", quoted(by), "--since", range === "1y" ? "365d" : range, ...Object.entries(only).filter(([, value]) => value).flatMap(([key, value]) => [`--${key}`, quoted(value)])].join(" ");
