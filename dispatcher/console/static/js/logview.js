// The live log: follows until one scrolls up, searches what is there and what comes, keeps colours.
// Text from a job is text: pieces become spans with classes, and nothing in it can be clicked.

import { useEffect, useRef, useState } from "preact/hooks";
import { pieces } from "./ansi.js";
import { get } from "./api.js";
import { bytes, count } from "./format.js";
import { listen } from "./live.js";
import { Logbook, marked } from "./logbook.js";
import { html } from "./parts.js";
import { visible } from "./rows.js";

const LINE_PX = 19;
const LONGEST = 4000; // of a line on the screen; the download has the rest
const PAGE_BYTES = 200_000;

/** @param {{id: number, attempts: number, final: boolean, latest: number, whole: string}} props
 *  `whole`: where log.tgz is, or nothing */
export function LogView({ id, attempts, final, latest, whole }) {
  const [stream, setStream] = useState("stdout");
  const [chosen, setChosen] = useState(0); // 0: the latest attempt, live
  const [follow, setFollow] = useState(true);
  const [needle, setNeedle] = useState("");
  const [hit, setHit] = useState(0);
  const [, redraw] = useState(0);
  const [view, setView] = useState({ top: 0, height: 400 });
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const books = useRef(/** @type {Record<string, Logbook>} */ ({}));
  const following = useRef(true);
  following.current = follow;
  const attempt = chosen || latest;

  useEffect(() => {
    books.current = { stdout: new Logbook(), stderr: new Logbook() };
    redraw((n) => n + 1);
    let current = true;
    /** @type {Record<string, boolean>} */
    const filling = {};
    /** Fetch what the stream did not bring, up to the end that is known now. @param {string} name @param {number} from */
    const fill = async (name, from) => {
      if (filling[name]) return;
      filling[name] = true;
      const book = books.current[name];
      try {
        for (let offset = from; current && books.current[name] === book;) {
          const chunk = await get(`jobs/${id}/log`, { stream: name, attempt_nr: attempt, offset });
          if (offset < 0 && chunk.offset > 0 && chunk.kept <= PAGE_BYTES) {
            offset = 0; // little is kept of it, with holes: all of that is shown
            continue;
          }
          book.add(chunk);
          if (!chunk.text) break;
          offset = chunk.end;
          if (current) redraw((n) => n + 1);
        }
      } catch { /* no log of this attempt: the view says that it is empty */ }
      filling[name] = false;
      if (current) redraw((n) => n + 1);
    };
    if (!attempt) return undefined;
    for (const name of ["stdout", "stderr"]) fill(name, -PAGE_BYTES);
    if (chosen) return () => { current = false; };
    const stop = listen(`log:${id}`, (chunk) => {
      if (chunk.attempt_nr !== attempt) return;
      const book = books.current[chunk.stream];
      if (book.start < 0 && filling[chunk.stream]) return; // the fetch brings it
      if (book.add(chunk) === "gap") fill(chunk.stream, book.end);
      redraw((n) => n + 1);
    });
    return () => { current = false; stop(); };
  }, [id, attempt, chosen]);

  const book = books.current[stream] ?? new Logbook();
  const total = book.lines.length;
  useEffect(() => {
    const element = box.current;
    if (element && follow) element.scrollTop = element.scrollHeight;
  });
  const scrolled = () => {
    const element = /** @type {HTMLDivElement} */ (box.current);
    setView({ top: element.scrollTop, height: element.clientHeight });
    const atEnd = element.scrollTop + element.clientHeight >= element.scrollHeight - LINE_PX;
    if (atEnd !== following.current) setFollow(atEnd);
  };
  useEffect(() => { if (box.current) setView({ top: box.current.scrollTop, height: box.current.clientHeight }); }, [total, stream]);
  useEffect(() => {
    const press = (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "f" && !event.ctrlKey && !event.metaKey && !(/** @type {HTMLElement} */ (event.target).matches("input, textarea, select"))) setFollow((on) => !on);
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);

  const found = needle ? book.find(needle) : [];
  const jump = (/** @type {number} */ to) => {
    if (!found.length) return;
    const at = ((to % found.length) + found.length) % found.length;
    setHit(at);
    setFollow(false);
    if (box.current) box.current.scrollTop = Math.max(0, found[at] * LINE_PX - box.current.clientHeight / 2);
  };
  const { first, last } = visible(view.top, view.height, LINE_PX, total, 20);
  const live = !final && !chosen && latest > 0;
  return html`<section class="card log" aria-label="Log">
    <header>
      <h2>Log</h2>
      <div class="tabs" role="group" aria-label="Stream">${["stdout", "stderr"].map((name) => html`
        <button key=${name} type="button" aria-pressed=${stream === name} onClick=${() => setStream(name)}>${name}${books.current[name]?.end > 0 ? html` <span class="dim">${bytes(books.current[name].end)}</span>` : ""}</button>`)}</div>
      ${attempts > 1 && html`<label class="pick">attempt <select value=${String(chosen)} onChange=${(/** @type {any} */ e) => setChosen(Number(e.target.value))}>
        <option value="0">latest</option>${Array.from({ length: attempts }, (_, at) => html`<option key=${at} value=${String(at + 1)}>${at + 1}</option>`)}</select></label>`}
      <form class="find" onSubmit=${(/** @type {Event} */ e) => { e.preventDefault(); jump(hit + 1); }}>
        <input type="search" aria-label="Search the log" placeholder="search" value=${needle} onInput=${(/** @type {any} */ e) => { setNeedle(e.target.value); setHit(-1); }} />
        ${needle && html`<span class="num note" role="status">${found.length ? `${hit < 0 ? "" : `${hit + 1} of `}${count(found.length)}` : "none"}</span>
          <button type="button" class="quiet" aria-label="Previous match" onClick=${() => jump(hit - 1)}>↑</button><button type="button" class="quiet" aria-label="Next match" onClick=${() => jump(hit + 1)}>↓</button>`}
      </form>
      <button type="button" class="follow" aria-pressed=${follow} onClick=${() => setFollow(!follow)}>${live ? html`<i class=${follow ? "on" : ""}></i>` : ""}${follow ? "following" : "follow"}</button>
      <button type="button" class="quiet" disabled=${!total} onClick=${() => download(id, attempt, stream)}>Download</button>
    </header>
    <div class="term" style=${{ height: `min(24rem, ${Math.max(4.5, total + 1.5) * LINE_PX}px)` }} ref=${box} onScroll=${scrolled} tabindex="0" role="log" aria-live="off" aria-label=${stream}>
      ${total ? html`<div class="tall" style=${{ height: `${total * LINE_PX}px` }}>
        ${book.lines.slice(first, last).map((line, index) => html`<${Line} key=${book.first + first + index} nr=${book.first + first + index} text=${line} top=${(first + index) * LINE_PX} needle=${needle} current=${found[hit] === first + index} hole=${book.holes.get(book.first + first + index) ?? 0} />`)}
      </div>` : html`<p class="dim">${!latest ? "No attempt yet: the log begins when a pilot starts the job." : live ? `Nothing on ${stream} yet. It appears here as the payload writes it.` : book.size ? `Nothing of ${stream} is kept here.` : `Nothing on ${stream}.`}</p>`}
    </div>
    ${book.final && book.size > book.kept && html`<p class="note late" role="note">${bytes(book.kept)} of ${bytes(book.size)} are kept here. ${whole
      ? html`The log of the attempt is in <code>${whole}</code>` : html`A job with <code>log: whole</code> keeps more.`}</p>`}
    ${book.start > 0 && html`<p class="note">The beginning is not shown here; the download has what is kept of it.</p>`}
  </section>`;
}

/** @param {{nr: number, text: string, top: number, needle: string, current: boolean, hole: number}} props */
const Line = ({ nr, text, top, needle, current, hole }) => html`<div class=${`line${current ? " here" : ""}`} style=${{ top: `${top}px` }}><span class="nr" aria-hidden="true">${nr}</span><code>${hole > 0 && html`<span class="hole">${bytes(hole)} are not kept here ⋯ </span>`}${pieces(text.slice(0, LONGEST)).map((piece, at) => html`
  <span key=${at} class=${piece.cls}>${marked(piece.text, needle).map((part) => (part.hit ? html`<mark>${part.text}</mark>` : part.text))}</span>`)}${text.length > LONGEST ? html`<span class="dim"> … ${count(text.length - LONGEST)} more characters</span>` : ""}</code></div>`;

/** What the dispatcher keeps, as a file, with a line where something is missing. @param {number} id @param {number} attempt @param {string} stream */
async function download(id, attempt, stream) {
  const parts = [];
  for (let offset = 0; ;) {
    const chunk = await get(`jobs/${id}/log`, { stream, attempt_nr: attempt, offset });
    if (!chunk.text) {
      if (chunk.size > chunk.end) parts.push(missing(chunk.size - chunk.end));
      break;
    }
    if (chunk.skipped > 0) parts.push(missing(chunk.skipped));
    parts.push(chunk.text);
    offset = chunk.end;
  }
  const url = URL.createObjectURL(new Blob(parts, { type: "text/plain" }));
  const anchor = document.createElement("a");
  anchor.href = url;
  anchor.download = `${id}.${attempt}.${stream}.txt`;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** @param {number} n bytes */
const missing = (n) => `\n[${count(n)} bytes are not kept here]\n`;
