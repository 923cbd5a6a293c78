// A growing log as lines: takes chunks in any overlap, keeps the newest part, finds text. Pure.

export const KEEP_LINES = 50_000;

/** One stream of one attempt. */
export class Logbook {
  constructor(keep = KEEP_LINES) {
    this.keep = keep;
    /** @type {string[]} */
    this.lines = [];
    this.first = 1; // number of lines[0]; only relative where the beginning was not fetched
    this.start = -1; // byte offset of the first byte held; -1: nothing yet
    this.end = 0; // byte offset after the last byte held
    this.open = false; // the last line has no newline yet
    this.final = false;
    this.size = 0; // of the whole stream, as far as the dispatcher knows
    this.kept = 0; // bytes of it that the dispatcher has
    /** @type {Map<number, number>} line number → how many bytes are kept nowhere just before it */
    this.holes = new Map();
  }

  /** Add a chunk; what is already here is skipped. Says whether bytes are missing before it that the
   *  dispatcher may have; those that it has not (`skipped`) are noted as a hole.
   *  @param {{offset: number, end: number, text: string, final?: boolean, skipped?: number, size?: number, kept?: number}} chunk
   *  @returns {"added" | "known" | "gap"} */
  add(chunk) {
    let { offset, text } = chunk;
    const asked = offset - (chunk.skipped ?? 0);
    if (this.start < 0) {
      this.start = this.end = asked;
    }
    this.size = Math.max(this.size, chunk.size ?? 0, chunk.end);
    this.kept = Math.max(this.kept, chunk.kept ?? 0);
    if (asked > this.end) return "gap";
    this.final = this.final || Boolean(chunk.final);
    if (chunk.end <= this.end) return "known";
    if (offset > this.end) {
      this.holes.set(this.first + this.lines.length, offset - this.end);
      this.end = offset;
      this.open = false;
    }
    if (offset < this.end) {
      text = cutBytes(text, this.end - offset);
      offset = this.end;
    }
    this.end = chunk.end;
    const fresh = text.split("\n");
    if (this.open && this.lines.length) this.lines[this.lines.length - 1] += fresh.shift() ?? "";
    this.open = text.length > 0 && !text.endsWith("\n");
    if (!this.open && fresh.length && fresh[fresh.length - 1] === "") fresh.pop();
    for (const line of fresh) this.lines.push(line);
    const over = this.lines.length - this.keep;
    if (over > 0) {
      this.lines.splice(0, over);
      this.first += over;
    }
    return "added";
  }

  /** Indices into `lines` that hold `needle`, ignoring case. @param {string} needle */
  find(needle) {
    const wanted = needle.toLowerCase();
    if (!wanted) return [];
    const found = [];
    for (let at = 0; at < this.lines.length; at += 1)
      if (this.lines[at].toLowerCase().includes(wanted)) found.push(at);
    return found;
  }
}

/** `text` without its first `n` bytes of UTF-8. @param {string} text @param {number} n */
function cutBytes(text, n) {
  return new TextDecoder().decode(new TextEncoder().encode(text).subarray(n));
}

/** A piece of text with its matches set apart. @param {string} text @param {string} needle
 *  @returns {{text: string, hit: boolean}[]} */
export function marked(text, needle) {
  if (!needle) return [{ text, hit: false }];
  const out = [];
  const low = text.toLowerCase();
  const wanted = needle.toLowerCase();
  let from = 0;
  for (let at = low.indexOf(wanted); at >= 0; at = low.indexOf(wanted, from)) {
    if (at > from) out.push({ text: text.slice(from, at), hit: false });
    out.push({ text: text.slice(at, at + wanted.length), hit: true });
    from = at + wanted.length;
  }
  if (from < text.length) out.push({ text: text.slice(from), hit: false });
  return out;
}

/** Which lines a link marks. @param {string} text as `stdout.L120-140`
 *  @returns {{stream: "stdout" | "stderr", first: number, last: number} | null} */
export function lined(text) {
  const [, stream, from, to] = /^(stdout|stderr)\.L(\d{1,12})(?:-(\d{1,12}))?$/.exec(text) ?? [];
  if (!stream) return null;
  const ends = [Number(from), Number(to ?? from)].sort((a, b) => a - b);
  return { stream: /** @type {"stdout" | "stderr"} */ (stream), first: ends[0], last: ends[1] };
}

/** The other way. @param {string} stream @param {number} from @param {number} to */
export const named = (stream, from, to) =>
  `${stream}.L${Math.min(from, to)}${from === to ? "" : `-${Math.max(from, to)}`}`;
