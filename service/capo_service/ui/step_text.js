// The text of a step, with its tokens and their rewards, or of a thought; formulas rendered or raw.
import { callPieces, callView } from "./calls.js";
import { h, number as digits, signed } from "./dom.js";
import { isRendered, pieces, rawOf, setRendered, showFormula } from "./math.js";

const fills = new WeakMap(); // step text -> how it is filled
const raws = new WeakMap(); // step text or observation -> its raw text
const [MOST, MOST_TOKENS] = [100_000, 5_000]; // characters and tokens of one observation that are shown
let heated = false;

/** Colour tokens by reward, or not. Heat is shown on the raw text, because a formula hides its tokens. */
export function showHeat(value) {
  heated = value;
  refill();
}

/** Render mathematics in all texts of the page, or show them raw. */
export function showMathematics(value) {
  setRendered(value);
  refill();
}

function refill() {
  for (const body of document.querySelectorAll(".step-text, .thought-text")) fills.get(body)?.();
}

document.addEventListener("copy", (event) => {
  const selected = getSelection();
  if (!selected.rangeCount || selected.isCollapsed) return;
  const range = selected.getRangeAt(0);
  const around = (node, name) => (node.nodeType === Node.ELEMENT_NODE ? node : node.parentElement).closest(name);
  const thought = around(range.commonAncestorContainer, ".thought-text");
  if (thought) {
    event.clipboardData.setData("text/plain", rawOf(range));
    event.preventDefault();
    return;
  }
  const steps = (node) => around(node, ".steps");
  if (!steps(range.startContainer) || steps(range.startContainer) !== steps(range.endContainer)) return;
  const bodies = [...steps(range.startContainer).querySelectorAll(".step-text, .observed-text")].filter((body) => range.intersectsNode(body));
  event.clipboardData.setData("text/plain", bodies.map((body) => selectedIn(body, range)).join(""));
  event.preventDefault();
});

/** The raw text of the part of a step that is selected; with the white space after it if it is selected to its end. */
function selectedIn(body, range) {
  const part = document.createRange();
  part.selectNodeContents(body);
  if (range.compareBoundaryPoints(Range.START_TO_START, part) <= 0 && range.compareBoundaryPoints(Range.END_TO_END, part) >= 0) return raws.get(body);
  if (range.compareBoundaryPoints(Range.START_TO_START, part) > 0) part.setStart(range.startContainer, range.startOffset);
  if (range.compareBoundaryPoints(Range.END_TO_END, part) < 0) part.setEnd(range.endContainer, range.endOffset);
  return rawOf(part);
}

/**
 * Fill the element of a step's text, now and whenever the reader chooses another form.
 *
 * @param {HTMLElement} body
 * @param step a step, with its reward, and in a group its advantage
 * @param entry the rollout, with `tokens`
 * @param {Text} text of the rollout
 * @param {[number, number]} bounds lowest and highest value, for the colours
 * @param {HTMLElement} tip where a token is described
 */
export function fillStep(body, step, entry, text, bounds, tip) {
  const [start, end] = step.span;
  const raw = text.slice(start, end).trimEnd();
  const last = start + Array.from(raw).length; // white space after it is shown by symbols
  const parts = callPieces(raw).flatMap((piece) => (piece.call ? [piece] : pieces(piece.raw)));
  colour(body, step, bounds);
  const fill = () => {
    const shown = isRendered() && !heated ? parts : [{ raw }];
    let at = start;
    body.replaceChildren(...shown.flatMap((piece, i) => {
      const from = at;
      at = i === shown.length - 1 ? end : from + Array.from(piece.raw).length;
      const inside = { step, entry, text, tip, from, to: at, last };
      return isPlain(piece) ? tokens(inside) : formula(piece, inside);
    }));
  };
  fills.set(body, fill);
  raws.set(body, text.slice(start, end));
  fill();
}

/**
 * How the element of an observation is filled: as plain text with its tokens, which are not the policy's.
 *
 * @returns {() => void} fills it
 */
export function fillObservation(body, { span: [start, end], token_span: span }, entry, text, tip) {
  raws.set(body, text.slice(start, end));
  return () => {
    if (!span || !entry.tokens) {
      const raw = text.slice(start, end).trim();
      return body.replaceChildren(raw.length > MOST ? `${raw.slice(0, MOST)}… (${digits(raw.length)} characters)` : raw);
    }
    const to = Math.min(end, start + MOST);
    const last = start + Array.from(text.slice(start, to).trimEnd()).length;
    const shown = [span[0], Math.min(span[1], span[0] + MOST_TOKENS)];
    const other = { span: [start, to], token_span: shown, reward: 0, isOther: true };
    const left = [end > to && `${digits(end - to)} more characters`, span[1] > shown[1] && `${digits(span[1] - shown[1])} tokens as plain text`].filter(Boolean);
    body.replaceChildren(...tokens({ step: other, entry, text, tip, from: start, to, last }), left.length ? `… (${left.join(", ")})` : "");
  };
}

/** Fill an element with a text that has no tokens, now and whenever the reader chooses another form. */
export function fillText(body, raw) {
  const parts = pieces(raw);
  const fill = () => body.replaceChildren(...(isRendered() ? parts : [{ raw }]).map((piece) => (piece.tex === undefined ? piece.raw : rendered(piece))));
  fills.set(body, fill);
  fill();
}

const isPlain = (piece) => piece.tex === undefined && !piece.call;

function rendered(piece, more = {}) {
  if (piece.call) return h("span", { class: "call", "data-raw": piece.raw, ...more }, callView(piece.call));
  const element = h("span", { class: piece.display ? "formula display" : "formula", "data-raw": piece.raw, ...more }, piece.raw);
  showFormula(element, piece);
  return element;
}

/** The colour of a step's tokens: between the lowest and the highest reward, or by the sign and size of the advantage. */
function colour(body, { reward, advantage }, [low, high]) {
  if (advantage !== undefined) {
    const size = Math.max(Math.abs(low), Math.abs(high)) || 1;
    body.style.setProperty("--heat", `${Math.round((Math.abs(advantage ?? 0) / size) * 100)}%`);
    body.style.setProperty("--from", advantage < 0 ? "var(--worst)" : "var(--best)");
    body.style.setProperty("--to", "var(--raised)");
  } else {
    const known = reward !== null && reward !== undefined;
    body.style.setProperty("--heat", known ? `${Math.round((high > low ? (reward - low) / (high - low) : 1) * 100)}%` : "50%");
  }
}

const value = ({ reward, advantage, isOther }) => isOther ? "not the policy's · reward 0" : `reward ${signed(reward)}${advantage === undefined ? "" : ` · advantage ${signed(advantage)}`}`;

/** The tokens of a step that have text between two positions, and what stands between them. */
function tokens({ step, entry, text, tip, from, to, last }) {
  const [start, end] = step.span;
  const span = step.token_span;
  if (!span || !entry.tokens) return [text.slice(from, Math.min(to, last))];
  const { token_offsets: offsets, response_token_ids: ids, by } = entry.tokens;
  const parts = [];
  let at = from;
  for (let i = span[0]; i < span[1]; i++) {
    const [first, after] = offsets[i];
    if (after < from || (after === from && from > start) || first > to || (first === to && to < end)) continue;
    if (first > at) parts.push(text.slice(at, first));
    const content = text.slice(Math.max(first, at), Math.max(Math.min(after, to), at));
    at = Math.max(at, Math.min(after, to));
    parts.push(token(i, content, { blank: first >= last, by, id: ids?.[i], whole: text.slice(first, after), step, tip }));
  }
  if (at < to) parts.push(text.slice(at, Math.min(to, last)));
  return parts;
}

function token(i, content, { blank, by, id, whole, step, tip }) {
  const number = by === "words" ? `word ${i}` : `token ${i} · id ${id ?? "not sent"}`;
  const shown = `${number} · ${value(step)}`;
  const tell = () => (tip.textContent = `${JSON.stringify(whole)} · ${shown}`);
  // White space at the end of a step is shown by symbols, not as empty lines.
  const visible = (blank && content ? content.replaceAll("\n", "⏎").replaceAll(" ", "·") : content) || "▹";
  return h("span", { class: `token${content && !blank ? "" : " bare"}${step.isOther ? " other" : ""}`, title: shown, "data-token": i, "data-raw": visible === content ? null : content, onmouseenter: tell, onfocus: tell }, visible);
}

function formula(piece, { step, entry, tip, from, to }) {
  const span = step.token_span;
  const inside = [];
  if (span && entry.tokens) {
    for (let i = span[0]; i < span[1]; i++) {
      const [first, after] = entry.tokens.token_offsets[i];
      if (first < to && after > from) inside.push(i);
    }
  }
  const kind = entry.tokens?.by === "words" ? "word" : "token";
  const range = inside.length > 1 ? `${kind}s ${inside[0]} to ${inside.at(-1)} · ` : inside.length ? `${kind} ${inside[0]} · ` : "";
  const tell = () => (tip.textContent = `${piece.raw} · ${range}${value(step)} · press m for the raw text`);
  return rendered(piece, { title: `${range}${value(step)}`, onmouseenter: tell });
}
