// A log line → pieces of text with class names. Pure: what it returns is data, never markup.
// Understands SGR colours only. Every other escape (cursor, title, OSC 8 links, …) and every control
// character is dropped, so a log can neither move, hide, link nor rename anything.

/** @typedef {{text: string, cls: string}} Piece */

// OSC/DCS/PM/APC strings up to their terminator (or the line's end), CSI sequences, other escapes.
const ESCAPE =
  /(?:\x1b\]|\x9d|\x1b[PX^_]|[\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|$)|(?:\x1b\[|\x9b)([0-?]*)[ -/]*([@-~]|$)|\x1b[ -/]*[0-~]?/g;
// C0 but tab, C1, and marks that turn text around or hide it (bidi overrides, zero width).
const HIDDEN = /[\x00-\x08\x0a-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;

/** What a terminal would show of a line with carriage returns: its last full redraw. @param {string} line */
const redrawn = (line) => {
  const text = line.replace(/\r+$/, "");
  return text.slice(text.lastIndexOf("\r") + 1);
};

/** @param {string} line one line without its newline @returns {Piece[]} */
export function pieces(line) {
  const text = redrawn(line);
  /** @type {Piece[]} */
  const out = [];
  let style = { fg: "", bg: "", bold: false, dim: false, italic: false, under: false };
  let from = 0;
  const push = (/** @type {string} */ raw) => {
    const shown = raw.replace(HIDDEN, "");
    if (!shown) return;
    const cls = [
      style.fg && `fg${style.fg}`, style.bg && `bg${style.bg}`, style.bold && "b",
      style.dim && "d", style.italic && "i", style.under && "u",
    ].filter(Boolean).join(" ");
    const last = out[out.length - 1];
    if (last && last.cls === cls) last.text += shown;
    else out.push({ text: shown, cls });
  };
  for (const match of text.matchAll(ESCAPE)) {
    push(text.slice(from, match.index));
    from = match.index + match[0].length;
    if (match[2] === "m") style = styled(style, match[1]);
  }
  push(text.slice(from));
  return out;
}

/** @template {{fg: string, bg: string, bold: boolean, dim: boolean, italic: boolean, under: boolean}} S
 *  @param {S} before @param {string} codes @returns {S} */
function styled(before, codes) {
  const style = { ...before };
  const numbers = codes.split(/[;:]/).map(Number);
  for (let at = 0; at < numbers.length; at += 1) {
    const code = numbers[at];
    if (code === 0) Object.assign(style, { fg: "", bg: "", bold: false, dim: false, italic: false, under: false });
    else if (code === 1) style.bold = true;
    else if (code === 2) style.dim = true;
    else if (code === 3) style.italic = true;
    else if (code === 4) style.under = true;
    else if (code === 22) style.bold = style.dim = false;
    else if (code === 23) style.italic = false;
    else if (code === 24) style.under = false;
    else if (code >= 30 && code <= 37) style.fg = String(code - 30);
    else if (code >= 90 && code <= 97) style.fg = String(code - 90 + 8);
    else if (code === 39) style.fg = "";
    else if (code >= 40 && code <= 47) style.bg = String(code - 40);
    else if (code >= 100 && code <= 107) style.bg = String(code - 100 + 8);
    else if (code === 49) style.bg = "";
    else if (code === 38 || code === 48) {
      // 256 and true colours become the nearest of the sixteen: a class, since styles are forbidden
      const [colour, used] = nearest(numbers.slice(at + 1));
      style[code === 38 ? "fg" : "bg"] = colour;
      at += used;
    }
  }
  return style;
}

/** @param {number[]} rest what follows 38 or 48 @returns {[string, number]} colour, numbers used */
function nearest(rest) {
  if (rest[0] === 5) {
    const n = rest[1] ?? 0;
    if (n < 16) return [String(n), 2];
    if (n >= 232) return [n < 240 ? "8" : n < 250 ? "7" : "15", 2];
    const cube = n - 16;
    return [sixteen(Math.floor(cube / 36) * 51, (Math.floor(cube / 6) % 6) * 51, (cube % 6) * 51), 2];
  }
  if (rest[0] === 2) return [sixteen(rest[1] ?? 0, rest[2] ?? 0, rest[3] ?? 0), 4];
  return ["", 0];
}

/** @param {number} r @param {number} g @param {number} b */
function sixteen(r, g, b) {
  const top = Math.max(r, g, b);
  if (top < 64) return "8";
  const bits = (r > top / 2 ? 1 : 0) + (g > top / 2 ? 2 : 0) + (b > top / 2 ? 4 : 0);
  return String(bits + (top > 200 ? 8 : 0));
}
