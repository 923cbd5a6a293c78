// The door, and the list of keys.

import { useEffect, useRef, useState } from "preact/hooks";
import { get, post, signedIn } from "./api.js";
import { overview } from "./live.js";
import { html, Command, Tail, Trouble } from "./parts.js";

/** A token is pasted and exchanged for a cookie that no script can read. Never in an address: those
 *  are kept in histories and logs. */
export function SignIn() {
  const box = useRef(/** @type {HTMLInputElement | null} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  const [busy, setBusy] = useState(false);
  useEffect(() => { document.title = "Sign in · Ailurus"; box.current?.focus(); }, []);
  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    setBusy(true);
    try {
      await post("session", { token: (box.current?.value ?? "").trim() });
      overview.value = await get("overview");
      if (box.current) box.current.value = "";
      signedIn.value = true;
    } catch (problem) {
      const { status } = /** @type {any} */ (problem);
      setError(status === 401 || status === 422
        ? { message: "This token is not valid here.", remedy: "Paste all of it, and check that it is of this dispatcher and has not expired." }
        : problem);
      setBusy(false);
    }
  };
  return html`<main class="door">
    <form onSubmit=${submit} class="card">
      <div class="crest"><${Tail} /><h1>Ailurus</h1></div>
      <label for="token">Your token</label>
      <input id="token" ref=${box} type="password" autocomplete="off" spellcheck=${false} required maxlength="8192"
        placeholder="paste it here" aria-describedby="token-note" />
      <${Trouble} error=${error} />
      <button class="primary" disabled=${busy}>${busy ? "Signing in…" : "Sign in"}</button>
      <div class="note" id="token-note">
        <p>The dispatcher's first token is in the file that <code>dispatcher init</code> named. Make one for looking and submitting with</p>
        <${Command} text="dispatcher token --subject NAME --out FILE" />
      </div>
    </form>
  </main>`;
}

const KEYS = [
  ["/", "find jobs"], ["g o", "overview"], ["g j", "jobs"], ["g s", "submissions"], ["g t", "tasks"], ["g p", "pilots"], ["g q", "queues"], ["g f", "failures"],
  ["j  k", "next, previous job in the list"], ["Enter", "open it"], ["x", "select it; with shift and a click all from there on"], ["f", "follow the log"], ["?", "this list"], ["Esc", "close"],
];

/** @param {{close: () => void}} props */
export function Help({ close }) {
  const box = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(() => { if (!box.current?.open) box.current?.showModal(); }, []);
  return html`<dialog ref=${box} onClose=${close} aria-label="Keys" onClick=${(/** @type {Event} */ e) => e.target === box.current && close()}>
    <h2>Keys</h2>
    <dl>${KEYS.map(([keys, what]) => html`<div key=${keys}><dt>${keys.split(" ").filter(Boolean).map((key) => html`<kbd>${key}</kbd> `)}</dt><dd>${what}</dd></div>`)}</dl>
    <h2>Finding</h2>
    <p class="note"><code>${'state:failed not code:1305 (site:CERN or age<2h) text:"disk full"'}</code><br/>A number goes to its job. Every view is a link: copy the address.</p>
    <button type="button" class="primary" onClick=${close}>Close</button>
  </dialog>`;
}
