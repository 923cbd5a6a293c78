// The public API, as any client sees it. The session's cookie is HttpOnly: nothing here can read it.

import { signal } from "@preact/signals";

const BASE = new URL("../api/ailurus/v1/", document.baseURI);

/** null: not known yet. */
export const signedIn = signal(/** @type {boolean | null} */ (null));

/** An answer that says no, in words for people. */
export class Problem extends Error {
  /** @param {number} status @param {any} body */
  constructor(status, body) {
    super(body?.title || (status ? `The dispatcher answered ${status}.` : "The dispatcher cannot be reached."));
    this.status = status;
    this.detail = body?.detail ?? "";
    this.remedy = body?.remedy ?? (status ? "" : "Check that it runs and that this machine reaches it.");
  }
}

/** @param {string} path @param {Record<string, any>} [params] */
export function address(path, params = {}) {
  const url = new URL(path, BASE);
  for (const [key, value] of Object.entries(params))
    if (value !== null && value !== undefined && value !== "") url.searchParams.set(key, String(value));
  return url;
}

/** @param {URL} url @param {RequestInit} [init] @returns {Promise<any>} */
async function call(url, init = {}) {
  let answer;
  try {
    answer = await fetch(url, { credentials: "same-origin", cache: "no-store", ...init });
  } catch {
    throw new Problem(0, null);
  }
  const body = await answer.json().catch(() => null);
  if (answer.ok) return body;
  if (answer.status === 401) signedIn.value = false;
  throw new Problem(answer.status, body);
}

/** @param {string} path @param {Record<string, any>} [params] */
export const get = (path, params) => call(address(path, params));

/** A form of another site cannot send JSON with a header of its own. @param {string} path @param {any} body */
export const post = (path, body) =>
  call(address(path), {
    method: "POST",
    headers: { "content-type": "application/json", "x-ailurus": "1" },
    body: JSON.stringify(body),
  });
