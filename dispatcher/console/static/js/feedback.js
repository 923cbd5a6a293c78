// How a page or an answer was: a face and a line of text, which the operators of this dispatcher read.

import { useEffect, useRef, useState } from "preact/hooks";
import { fresh } from "./act.js";
import { post } from "./api.js";
import { html, Trouble } from "./parts.js";

/** From 1 to 5, with the bend of the mouth. @type {[string, number][]} */
const MOODS = [["does not work for me", -4], ["poor", -2], ["fair", 0], ["good", 2], ["works for me", 4]];

/** @param {{bend: number}} props */
const Face = ({ bend }) => html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="10" /><path d=${`M8.500 9v.5M15.500 9v.5M7.500 ${15.5 - bend / 3} q4.500 ${bend} 9 0`} /></svg>`;

/** @param {{about: string, children: any}} props `about`: the page or the answer that it is about */
export function Feedback({ about, children }) {
  const [state, setState] = useState(/** @type {"" | "asking" | "said"} */ (""));
  return html`${state === "said"
    ? html`<span class="note" role="status">Thank you: the operators can read it.</span>`
    : html`<button type="button" class="quiet face" onClick=${() => setState("asking")}><${Face} bend=${4} />${children}</button>`}
    ${state === "asking" && html`<${Form} about=${about} end=${setState} />`}`;
}

/** @param {{about: string, end: (state: "" | "said") => void}} props */
function Form({ about, end }) {
  const box = useRef(/** @type {HTMLDialogElement | null} */ (null));
  const line = useRef(/** @type {HTMLInputElement | null} */ (null));
  // One for all tries to send it: it is kept once.
  const request = useRef(fresh());
  const [mood, setMood] = useState(0);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(/** @type {any} */ (null));
  useEffect(() => { if (!box.current?.open) box.current?.showModal(); }, []);
  const send = (/** @type {Event} */ event) => {
    event.preventDefault();
    setBusy(true);
    post("feedback", { request_id: request.current, mood, text: line.current?.value.trim() ?? "", about })
      .then(() => end("said"), (problem) => { setError(problem); setBusy(false); });
  };
  return html`<dialog ref=${box} class="say" aria-label="Feedback" onClose=${() => !busy && end("")}>
    <form onSubmit=${send}>
      <fieldset><legend>How is it?</legend>${MOODS.map(([name, bend], at) => html`
        <label key=${name} title=${name}><input type="radio" name="mood" required checked=${mood === at + 1} aria-label=${name} onChange=${() => setMood(at + 1)} /><${Face} bend=${bend} /></label>`)}</fieldset>
      <label>A line of text <input ref=${line} maxlength="1000" autocomplete="off" placeholder="what helped, or what is missing" /></label>
      <p class="note">About ${about}. The operators see it with your name.</p>
      <${Trouble} error=${error} />
      <p class="actions"><button class="primary" disabled=${busy}>Send</button><button type="button" disabled=${busy} onClick=${() => end("")}>Close</button></p>
    </form></dialog>`;
}
