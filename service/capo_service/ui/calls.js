// Tool calls in a policy's text, shown by the tool's name and its arguments. The raw text stays the source of truth.
import { h } from "./dom.js";

const MOST = 400; // calls of one text
const LONGEST = 20_000; // characters of one call; longer ones stay raw
const [OPEN, CLOSE] = ["<tool_call>", "</tool_call>"];

/**
 * Split a text into plain pieces and tool calls; joined, their `raw` is the text.
 *
 * Known are the forms of Hermes and Qwen: JSON with `name` and `arguments`, or `<function=name>` with
 * `<parameter=name>`, between <tool_call> and </tool_call>. Anything else stays raw.
 *
 * @returns {{raw: string, call?: {name: string, arguments: [string, string][]}}[]}
 */
export function callPieces(text) {
  const found = [];
  let [plain, end] = [0, -1];
  for (let at = text.indexOf(OPEN), count = 0; at >= 0 && count < MOST; at = text.indexOf(OPEN, at + 1), count++) {
    if (end < at + OPEN.length) end = text.indexOf(CLOSE, at + OPEN.length);
    if (end < 0) break;
    const call = end - at > LONGEST ? null : readCall(text.slice(at + OPEN.length, end).trim());
    if (!call) continue;
    if (at > plain) found.push({ raw: text.slice(plain, at) });
    plain = end + CLOSE.length;
    found.push({ raw: text.slice(at, plain), call });
  }
  if (plain < text.length) found.push({ raw: text.slice(plain) });
  return found;
}

function readCall(inner) {
  if (inner.startsWith("<function=")) return readFunction(inner);
  try {
    const { name, arguments: given } = JSON.parse(inner);
    if (typeof name !== "string" || !name) return null;
    const values = typeof given === "string" ? JSON.parse(given || "{}") : (given ?? {});
    if (values === null || typeof values !== "object" || Array.isArray(values)) return null;
    return { name, arguments: Object.entries(values).map(([key, value]) => [key, typeof value === "string" ? value : JSON.stringify(value)]) };
  } catch {
    return null;
  }
}

function readFunction(inner) {
  const name = inner.match(/^<function=([^<>\s]+)>/)?.[1];
  if (!name || !inner.endsWith("</function>")) return null;
  const values = inner.slice(name.length + 11, -11).split("<parameter=").slice(1).map((part) => part.match(/^([^<>\s]+)>\n?([^]*?)\n?<\/parameter>\s*$/));
  return values.every(Boolean) ? { name, arguments: values.map(([, key, value]) => [key, value]) } : null;
}

/** The content of the element of a call. */
export function callView({ name, arguments: values }) {
  return [
    h("span", { class: "call-name" }, "call ", h("strong", {}, name)),
    values.map(([key, value]) => h("span", { class: "argument" }, h("span", { class: "argument-name" }, key), " ", h("span", { class: "argument-value" }, value))),
    values.length ? null : h("span", { class: "argument" }, h("span", { class: "argument-name" }, "no arguments")),
  ].flat().filter(Boolean);
}
