// The live log: follows until one scrolls up, searches what is there and what comes, keeps colours.
// Text from a job is text: pieces become spans with classes, and nothing in it can be clicked.

import { useEffect, useRef, useState } from "preact/hooks";
import { pieces } from "./ansi.js";
import { address, get } from "./api.js";
import { bytes, count } from "./format.js";
import { listen } from "./live.js";
import { Logbook, lined, marked, named } from "./logbook.js";
import { html } from "./parts.js";
import { link } from "./query.js";
import { visible } from "./rows.js";

const LINE_PX = 19;
const LONGEST = 4000; // of a line on the screen; the download has the rest
const PAGE_BYTES = 200_000;
const WHOLE_BYTES = 2_000_000; // so much is shown from its beginning on
const STREAMS = ["stdout", "stderr"];
const VIEWS = { stdout: ["stdout"], stderr: ["stderr"], both: STREAMS };

/** @param {{id: number, attempts: number, final: boolean, latest: number, whole: string, params: Record<string, string>, go: (to: any) => void}} props
 *  `whole`: where log.tgz is, or nothing; `params.lines`: what a link marks, as `stdout.L120-140` */
export function LogView({ id, attempts, final, latest, whole, params, go }) {
  const asked = lined(params.lines ?? "");
  const chosen = Number(params.attempt) || 0; // 0: the latest attempt, live
  const [view, setView] = useState(/** @type {keyof VIEWS} */ (asked?.stream ?? "stdout"));
  const [early, setEarly] = useState(Boolean(asked)); // from the beginning on, however long it is
  const [follow, setFollow] = useState(!asked);
  const [needle, setNeedle] = useState("");
  const [hit, setHit] = useState(-1);
  const [, redraw] = useState(0);
  const books = useRef(/** @type {Record<string, Logbook>} */ ({}));
  const attempt = chosen || latest;
  const current = attempt === latest;

  useEffect(() => {
    books.current = { stdout: new Logbook(), stderr: new Logbook() };
    redraw((n) => n + 1);
    let here = true;
    /** @type {Record<string, boolean>} */
    const filling = {};
    /** Fetch what the stream did not bring, up to the end that is known now. @param {string} name @param {number} from */
    const fill = async (name, from) => {
      if (filling[name]) return;
      filling[name] = true;
      const book = books.current[name];
      try {
        for (let offset = from; here && books.current[name] === book;) {
          const chunk = await get(`jobs/${id}/log`, { stream: name, attempt_nr: attempt, offset });
          if (offset < 0 && chunk.offset > 0 && (early || chunk.kept <= WHOLE_BYTES)) {
            offset = 0; // numbers of lines hold from there, and holes are shown
            continue;
          }
          book.add(chunk);
          if (!chunk.text) break;
          offset = chunk.end;
          if (here) redraw((n) => n + 1);
        }
      } catch { /* no log of this attempt: the view says that it is empty */ }
      filling[name] = false;
      if (here) redraw((n) => n + 1);
    };
    if (!attempt) return undefined;
    for (const name of STREAMS) fill(name, -PAGE_BYTES);
    if (!current) return () => { here = false; };
    const stop = listen(`log:${id}`, (chunk) => {
      if (chunk.attempt_nr !== attempt) return;
      const book = books.current[chunk.stream];
      if (book.start < 0 && filling[chunk.stream]) return; // the fetch brings it
      if (book.add(chunk) === "gap") fill(chunk.stream, book.end);
      redraw((n) => n + 1);
    });
    return () => { here = false; stop(); };
  }, [id, attempt, current, early]);
  useEffect(() => {
    const press = (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "f" && !event.ctrlKey && !event.metaKey && !(/** @type {HTMLElement} */ (event.target).matches("input, textarea, select"))) setFollow((on) => !on);
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);

  const book = (/** @type {string} */ name) => books.current[name] ?? new Logbook();
  const shown = VIEWS[view];
  const found = needle ? shown.flatMap((name) => book(name).find(needle).map((line) => ({ name, line }))) : [];
  const jump = (/** @type {number} */ to) => {
    if (!found.length) return;
    setHit(((to % found.length) + found.length) % found.length);
    setFollow(false);
  };
  const at = (/** @type {any} */ more) => link({ id, params: { ...params, ...more } });
  /** @param {string} stream @param {number} nr @param {boolean} to whether the marked lines reach to there */
  const pick = (stream, nr, to) => {
    const from = to && asked?.stream === stream ? asked.first : nr;
    setFollow(false);
    go({ id, params: { ...params, attempt: String(attempt), lines: named(stream, from, nr) } });
  };
  const live = !final && current && latest > 0;
  const total = Math.max(...shown.map((name) => book(name).lines.length));
  return html`<section class="card log" aria-label="Log">
    <header>
      <h2>Log</h2>
      <div class="tabs" role="group" aria-label="Stream">${Object.keys(VIEWS).map((name) => html`
        <button key=${name} type="button" aria-pressed=${view === name} onClick=${() => setView(/** @type {keyof VIEWS} */ (name))}>${name}${book(name).end > 0 ? html` <span class="dim">${bytes(book(name).end)}</span>` : ""}</button>`)}</div>
      ${attempts > 1 && html`<label class="pick">attempt <select value=${String(chosen)} onChange=${(/** @type {any} */ e) => { location.hash = at({ attempt: e.target.value === "0" ? "" : e.target.value, lines: "" }); }}>
        <option value="0">latest</option>${Array.from({ length: attempts }, (_, nr) => html`<option key=${nr} value=${String(nr + 1)}>${nr + 1}</option>`)}</select></label>`}
      <form class="find" onSubmit=${(/** @type {Event} */ e) => { e.preventDefault(); jump(hit + 1); }}>
        <input type="search" aria-label="Search the log" placeholder="search" value=${needle} onInput=${(/** @type {any} */ e) => { setNeedle(e.target.value); setHit(-1); }} />
        ${needle && html`<span class="num note" role="status">${found.length ? `${hit < 0 ? "" : `${hit + 1} of `}${count(found.length)}` : "none"}</span>
          <button type="button" class="quiet" aria-label="Previous match" onClick=${() => jump(hit - 1)}>↑</button><button type="button" class="quiet" aria-label="Next match" onClick=${() => jump(hit + 1)}>↓</button>`}
      </form>
      <button type="button" class="follow" aria-pressed=${follow} onClick=${() => setFollow(!follow)}>${live ? html`<i class=${follow ? "on" : ""}></i>` : ""}${follow ? "following" : "follow"}</button>
      ${shown.map((stream) => html`<a key=${stream} class="button quiet" download href=${address(`jobs/${id}/log/file`, { stream, attempt_nr: attempt }).href} hidden=${!book(stream).lines.length}>Download ${shown.length > 1 ? stream : ""}</a>`)}
    </header>
    <div class="panes">${shown.map((name) => html`<div key=${name}>
      <${Pane} book=${book(name)} name=${name} height=${Math.max(4.5, total + 1.5)} follow=${follow} setFollow=${setFollow} needle=${needle}
        here=${found[hit]?.name === name ? found[hit].line : -1} chosen=${asked?.stream === name ? asked : null} pick=${pick}
        empty=${!latest ? "No attempt yet: the log begins when a pilot starts the job." : live ? `Nothing on ${name} yet. It appears here as the payload writes it.` : book(name).size ? `Nothing of ${name} is kept here.` : `Nothing on ${name}.`} />
      ${book(name).final && book(name).size > book(name).kept && html`<p class="note late" role="note">${bytes(book(name).kept)} of ${bytes(book(name).size)} are kept here. ${whole
        ? html`The log of the attempt is in <code>${whole}</code>` : html`A job with <code>log: whole</code> keeps more.`}</p>`}
      ${book(name).start > 0 && html`<p class="note">The beginning is not shown here. <button type="button" class="quiet" onClick=${() => { setFollow(false); setEarly(true); }}>Show from the beginning</button></p>`}
    </div>`)}</div>
    ${asked && html`<p class="note" role="status">${asked.first === asked.last ? `Line ${asked.first}` : `Lines ${asked.first} to ${asked.last}`} of ${asked.stream}: the address of this page leads here. <a href=${at({ lines: "", attempt: "" })}>Forget it</a></p>`}
  </section>`;
}

/** One stream: only the lines that can be seen exist.
 *  @param {{book: Logbook, name: string, height: number, follow: boolean, setFollow: (on: boolean) => void, needle: string, here: number,
 *   chosen: null | {first: number, last: number}, pick: (stream: string, nr: number, to: boolean) => void, empty: string}} props */
function Pane({ book, name, height, follow, setFollow, needle, here, chosen, pick, empty }) {
  const [view, setView] = useState({ top: 0, height: 400 });
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const total = book.lines.length;
  const middle = (/** @type {number} */ line) => {
    if (box.current) box.current.scrollTop = Math.max(0, line * LINE_PX - box.current.clientHeight / 2);
  };
  useEffect(() => { if (box.current && follow) box.current.scrollTop = box.current.scrollHeight; });
  useEffect(() => { if (here >= 0) middle(here); }, [here]);
  const wanted = chosen && chosen.first >= book.first && chosen.first < book.first + total ? chosen.first - book.first : -1;
  useEffect(() => { if (wanted >= 0 && (wanted < view.top / LINE_PX || wanted > (view.top + view.height) / LINE_PX)) middle(wanted); }, [wanted]);
  const measure = () => { if (box.current) setView({ top: box.current.scrollTop, height: box.current.clientHeight }); };
  const scrolled = () => {
    const element = /** @type {HTMLDivElement} */ (box.current);
    measure();
    const atEnd = element.scrollTop + element.clientHeight >= element.scrollHeight - LINE_PX;
    if (atEnd !== follow) setFollow(atEnd);
  };
  useEffect(measure, [total]);
  const { first, last } = visible(view.top, view.height, LINE_PX, total, 20);
  const inked = (/** @type {number} */ nr) => chosen !== null && nr >= chosen.first && nr <= chosen.last;
  return html`<div class="term" style=${{ height: `min(24rem, ${height * LINE_PX}px)` }} ref=${box} onScroll=${scrolled} tabindex="0" role="log" aria-live="off" aria-label=${name}>
    ${total ? html`<div class="tall" style=${{ height: `${total * LINE_PX}px` }}
      onClick=${(/** @type {MouseEvent} */ e) => {
        const nr = Number(/** @type {HTMLElement} */ (e.target).dataset?.nr);
        if (nr && book.start === 0) pick(name, nr, e.shiftKey);
      }}>
      ${book.lines.slice(first, last).map((line, index) => html`<${Line} key=${book.first + first + index} nr=${book.first + first + index} text=${line} top=${(first + index) * LINE_PX} needle=${needle} current=${here === first + index} chosen=${inked(book.first + first + index)} hole=${book.holes.get(book.first + first + index) ?? 0} />`)}
    </div>` : html`<p class="dim">${empty}</p>`}
  </div>`;
}

/** @param {{nr: number, text: string, top: number, needle: string, current: boolean, chosen: boolean, hole: number}} props */
const Line = ({ nr, text, top, needle, current, chosen, hole }) => html`<div class=${`line${current ? " here" : ""}${chosen ? " chosen" : ""}`} style=${{ top: `${top}px` }}><span class="nr" data-nr=${nr} title="A link to this line; with shift, to all from the marked one on" aria-hidden="true">${nr}</span><code>${hole > 0 && html`<span class="hole">${bytes(hole)} are not kept here ⋯ </span>`}${pieces(text.slice(0, LONGEST)).map((piece, at) => html`
  <span key=${at} class=${piece.cls}>${marked(piece.text, needle).map((part) => (part.hit ? html`<mark>${part.text}</mark>` : part.text))}</span>`)}${text.length > LONGEST ? html`<span class="dim"> … ${count(text.length - LONGEST)} more characters</span>` : ""}</code></div>`;
