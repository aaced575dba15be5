// Mathematics in a text: where it is, and how it is shown. The raw text stays the source of truth.

const LONGEST = 1000; // characters of one formula; longer ones stay raw
const MOST = 400; // formulas of one text
const DEEPEST = 60; // nested elements of one formula, and at most this many...
const LARGEST = 3000; // ...elements in it
const STORED = "capo-mathematics";
const OPTIONS = { output: "mathml", trust: false, throwOnError: true, strict: "ignore", maxExpand: 100, maxSize: 10 };

let rendered = localStorage.getItem(STORED) !== "raw";

/** Whether mathematics is rendered now; otherwise the raw text is shown. */
export const isRendered = () => rendered;

export function setRendered(value) {
  rendered = value;
  localStorage.setItem(STORED, value ? "rendered" : "raw");
}

const FENCES = [["$$", "$$", true], ["\\[", "\\]", true], ["\\(", "\\)", false]];
const BEGIN = /\\begin\{((?:align|aligned|equation|gather|cases|[pbv]matrix|array)\*?)\}/y;

/**
 * Split a text into plain pieces and formulas; joined, their `raw` is the text. Linear in its length.
 *
 * Formulas are $..$, $$..$$, \(..\), \[..\], \boxed{..} and \begin{align}..\end{align} and its kin. Amounts
 * in dollars are none: after the first $ and before the last one stands no blank, no digit follows the last
 * one, and words between them mean prose.
 *
 * @param {string} text
 * @returns {{raw: string, tex?: string, display?: boolean}[]} a piece without `tex` is plain
 */
export function pieces(text) {
  const found = [];
  const closing = {}; // by mark: its next position, so that no part of the text is searched twice
  const next = (mark, from) => {
    if (!(closing[mark] >= from)) {
      const at = text.indexOf(mark, from);
      closing[mark] = at < 0 ? Infinity : at;
    }
    return closing[mark];
  };
  let plain = 0;
  let count = 0;
  for (let at = 0; at < text.length && count < MOST; ) {
    const formula = text[at] === "\\" || text[at] === "$" ? formulaAt(text, at, next) : null;
    if (!formula) {
      at += text[at] === "\\" && text[at + 1] === "$" ? 2 : 1;
      continue;
    }
    if (at > plain) found.push({ raw: text.slice(plain, at) });
    found.push({ raw: text.slice(at, formula.end), tex: formula.tex, display: formula.display });
    at = plain = formula.end;
    count += 1;
  }
  if (plain < text.length) found.push({ raw: text.slice(plain) });
  return found;
}

/** The formula that begins at a position: {end, tex, display}, or null. */
function formulaAt(text, at, next) {
  for (const [open, close, display] of FENCES) {
    if (!text.startsWith(open, at)) continue;
    const end = next(close, at + open.length);
    return fits(at, end) && end > at + open.length ? { end: end + close.length, tex: text.slice(at + open.length, end), display } : null;
  }
  if (text[at] === "$") return dollars(text, at);
  if (text.startsWith("\\boxed{", at)) {
    const end = afterBrace(text, at + 6);
    return end ? { end, tex: text.slice(at, end), display: false } : null;
  }
  BEGIN.lastIndex = at;
  const name = BEGIN.exec(text)?.[1];
  if (!name) return null;
  const close = `\\end{${name}}`;
  const end = next(close, at);
  return fits(at, end) ? { end: end + close.length, tex: text.slice(at, end + close.length), display: true } : null;
}

const fits = (from, to) => to - from <= LONGEST;

function dollars(text, at) {
  if (!text[at + 1] || /\s/.test(text[at + 1])) return null;
  for (let end = at + 1; end < text.length && end - at <= LONGEST; end++) {
    if (text[end] === "\\") end += 1;
    else if (text[end] === "\n" && text[end + 1] === "\n") return null;
    else if (text[end] === "$") {
      const tex = text.slice(at + 1, end);
      return /\s$/.test(tex) || /\d/.test(text[end + 1] ?? "") || isProse(tex) ? null : { end: end + 1, tex, display: false };
    }
  }
  return null;
}

/** Whether what stands between two dollar signs is a sentence with an amount at each end. */
function isProse(tex) {
  const bare = tex.replace(/\\(?:text|mathrm|operatorname)\s*\{[^{}]*\}/g, " ").replace(/\\[a-zA-Z]+/g, " ");
  return /[a-zA-Z]{2,}[ ,.;:]+[a-zA-Z]{2,}/.test(bare) || (/^\d/.test(bare) && /(?:^|\s)[a-zA-Z]{2,}(?:\s|$)/.test(bare));
}

/** The position after the brace that closes the one at `at`; 0 if none does in time. */
function afterBrace(text, at) {
  let depth = 0;
  for (let i = at; i < text.length && i - at <= LONGEST; i++) {
    if (text[i] === "\\") i += 1;
    else if (text[i] === "{") depth += 1;
    else if (text[i] === "}" && --depth === 0) return i + 1;
  }
  return 0;
}

let loading = null;

/** KaTeX, loaded when the first formula is shown. */
function katex() {
  loading ??= import("./vendor/katex.min.js").then(() => globalThis.katex);
  return loading;
}

/**
 * Show a formula in an element, which holds the raw text until then, and keeps it if the formula cannot
 * be shown: wrong syntax, too large, or nested too deeply.
 *
 * @param {HTMLElement} element
 * @param {{raw: string, tex: string, display: boolean}} piece
 */
export async function showFormula(element, { tex, display }) {
  const shown = document.createElement("span");
  try {
    (await katex()).render(tex, shown, { ...OPTIONS, displayMode: display });
  } catch (error) {
    element.title = `Raw text, because it is not valid LaTeX: ${error.message ?? error}`.slice(0, 200);
    return;
  }
  if (isTooLarge(shown)) {
    element.title = "Raw text, because the formula is too large to show.";
    return;
  }
  shown.querySelectorAll("annotation").forEach((each) => each.remove()); // a second copy of the raw text
  element.replaceChildren(...shown.childNodes);
  element.classList.add("shown");
}

function isTooLarge(root) {
  let level = [...root.children];
  let all = 0;
  for (let depth = 0; level.length; depth++) {
    all += level.length;
    if (depth > DEEPEST || all > LARGEST) return true;
    level = level.flatMap((each) => [...each.children]);
  }
  return false;
}

/**
 * The raw text of what is selected in an element: formulas and symbols for white space carry theirs in
 * `data-raw`.
 *
 * @param {Range} range
 */
export function rawOf(range) {
  const whole = range.cloneRange();
  const formula = (node) => (node.nodeType === Node.ELEMENT_NODE ? node : node.parentElement)?.closest("[data-raw]");
  const [first, last] = [formula(range.startContainer), formula(range.endContainer)];
  if (first) whole.setStartBefore(first);
  if (last) whole.setEndAfter(last);
  const copy = whole.cloneContents();
  copy.querySelectorAll("[data-raw]").forEach((each) => each.replaceWith(each.dataset.raw));
  return copy.textContent;
}
