// Trajectories: chat turns with tool calls as text, and which part of a text the policy wrote, as in
// capo_wire/chat.py and core/turns.py of the service. tests/ui compare them.
import { Text } from "./dom.js";

const GAP = "\n\n"; // between two turns, and between the steps of a labelled solution
const POLICY = "assistant";
const [NOT_IN_NAMES, LONGEST_NAME] = [/[^\p{L}\p{N}_.:/@-]+/gu, 64];
const FIELDS = ["role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content"];

const own = (object, name) => object !== null && typeof object === "object" && Object.prototype.hasOwnProperty.call(object, name);
const isTurn = (value) => (own(value, "content") && (own(value, "role") || own(value, "type"))) || (own(value, "role") && own(value, "tool_calls"));
export const isTurns = (value) => Array.isArray(value) && value.length > 0 && value.every(isTurn);

/** Whether turns of a conversation hold tool calls or their results. */
export const usesTools = (turns) => turns.some((turn) => turn.role === "tool" || turn.tool_calls?.length);

/** A turn with the fields of the wire; a call may have its name and arguments at the top. */
export function wireTurn(turn) {
  const found = Object.fromEntries(FIELDS.filter((name) => turn[name] !== null && turn[name] !== undefined).map((name) => [name, turn[name]]));
  if (Array.isArray(turn.tool_calls)) {
    found.tool_calls = turn.tool_calls.map((call) => {
      const { name, arguments: given } = call.function ?? call;
      return { ...(call.id ? { id: call.id } : {}), function: { name, arguments: given ?? "" } };
    });
  }
  if (!found.tool_calls?.length) delete found.tool_calls;
  return found;
}

/** JSON as Python writes it, with a blank after each comma and colon. */
function json(value) {
  if (Array.isArray(value)) return `[${value.map(json).join(", ")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${json(each)}`).join(", ")}}`;
}

function callText({ function: { name, arguments: given } }) {
  const text = typeof given === "string" ? given : json(given ?? "");
  return `<tool_call>\n{"name": ${JSON.stringify(name)}, "arguments": ${text || "{}"}}\n</tool_call>`;
}

/** The text of a turn: its thought, its content, its tool calls. */
export function turnText(turn) {
  const { content, reasoning_content: thought, tool_calls: calls } = turn;
  const text = Array.isArray(content) ? content.map((part) => part?.text ?? "").join("") : typeof content === "object" && content ? JSON.stringify(content) : String(content ?? "");
  if (!thought && !calls?.length) return text;
  return [thought ? `<think>\n${thought}\n</think>` : "", text, ...wireTurn({ tool_calls: calls ?? [] }).tool_calls?.map(callText) ?? []].filter(Boolean).join("\n");
}

/** A role or a name without anything that could pass for more than a name. */
const plain = (name) => Array.from(String(name)).slice(0, LONGEST_NAME).join("").replace(NOT_IN_NAMES, "_");

/** Each turn's text with its role; a tool's name is that of the call before it that it answers. */
function withRoles(turns) {
  const called = new Map();
  return turns.map((turn) => {
    const name = turn.name || called.get(turn.tool_call_id ?? "");
    if (turn.role === POLICY) for (const call of turn.tool_calls ?? []) if (call.id) called.set(call.id, (call.function ?? call).name);
    return `${plain(turn.role ?? "turn")}${name ? ` (${plain(name)})` : ""}: ${turnText(turn)}`;
  });
}

/** A conversation as one text: a single turn as it is, several with their roles. */
export function conversationText(turns) {
  if (turns.length === 1) return turnText(turns[0]);
  return withRoles(turns).join(GAP);
}

/**
 * A trajectory as one text, and the spans that the policy did not write. Its turns are those of role
 * `assistant`; the others have their roles and, of tools, their names.
 *
 * @returns {{text: string, observations: [number, number][]}} spans in code points
 */
export function trajectoryText(turns) {
  const parts = [];
  withRoles(turns).forEach((withRole, i) => {
    const isOwn = turns[i].role === POLICY;
    const text = isOwn ? turnText(turns[i]) : withRole;
    if (!text) return;
    if (parts.length) parts.push([GAP, false]);
    parts.push([text, isOwn]);
  });
  return { text: parts.map(([text]) => text).join(""), observations: spansOf(parts) };
}

/** The spans of the parts that are not the policy's; neighbours are one span. */
function spansOf(parts) {
  const spans = [];
  let length = 0;
  for (const [text, isOwn] of parts) {
    const start = length;
    length += new Text(text).length;
    if (isOwn) continue;
    if (spans.at(-1)?.[1] === start) spans.at(-1)[1] = length;
    else spans.push([start, length]);
  }
  return spans;
}

/** Token spans without gaps: a token without text stands where the one before it ends. */
export function placed(offsets) {
  let reached = 0;
  return offsets.map(([start, end]) => (start === end ? [reached, reached] : [start, (reached = end)]));
}

/** The token spans of a record: from offsets, or from lengths, which are their differences; null without them. */
export function offsetsOf(record) {
  if (Array.isArray(record?.token_offsets)) return placed(record.token_offsets);
  if (!Array.isArray(record?.token_lengths)) return null;
  let at = 0;
  return record.token_lengths.map((length) => [at, (at += length)]);
}

/** The policy's turns by a mask: {span, token_span} of each run of tokens that it sampled. */
export function turnsByMask(size, offsets, mask) {
  const turns = [];
  let reached = 0;
  for (let first = 0; first < mask.length; ) {
    let end = first + 1;
    while (end < mask.length && Boolean(mask[end]) === Boolean(mask[first])) end += 1;
    const last = Math.max(offsets[end - 1][1], reached);
    if (mask[first]) {
      const start = first ? Math.max(offsets[first][0], reached) : 0;
      const stop = end < mask.length ? last : size;
      turns.push({ span: [Math.min(start, stop), stop], token_span: [first, end] });
    }
    [first, reached] = [end, last];
  }
  return turns;
}

/** The spans before, between and after others. */
function between(spans, size) {
  const edges = [0, ...spans.flat(), size];
  return spans.concat([0]).map((_, i) => [edges[2 * i], edges[2 * i + 1]]);
}

/**
 * Steps of a trajectory that was not judged: one a turn, as the service cuts by default.
 *
 * @param {string} text
 * @param {{mask?: number[] | null, offsets?: [number, number][] | null, observations?: [number, number][] | null}} given
 * @returns {{steps: object[], observations: object[]} | null} null if the policy wrote all of it
 */
export function cutIntoTurns(text, { mask, offsets, observations }) {
  const points = new Text(text);
  const isText = ([start, end]) => points.slice(start, end).trim();
  let turns = null;
  if (mask && offsets?.length === mask.length && mask.some((each) => !each)) turns = turnsByMask(points.length, offsets, mask);
  else if (observations?.length) turns = between(observations, points.length).filter(isText).map((span) => ({ span, token_span: null }));
  if (!turns) return null;
  return {
    steps: turns.map((turn, index) => ({ ...turn, index, turn: index })),
    observations: between(turns.map((turn) => turn.span), points.length).filter(isText).map((span) => ({ span, left_out: 0 })),
  };
}

/**
 * The steps of a trajectory in their order, with what others wrote between them and where turns begin.
 *
 * @param {object[]} steps of a result
 * @param {object[] | null} observations of the result; null if the policy wrote all of it
 * @param {[number, number][] | null} offsets of all tokens
 * @returns {({turn: number} | {step: object} | {observation: object})[]} an observation has `token_span`;
 *   one without `left_out` is white space that others wrote
 */
export function inOrder(steps, observations, offsets) {
  const items = [];
  const waiting = [...(observations ?? [])];
  const several = new Set(steps.map((step) => step.turn ?? 0)).size > 1;
  let [turn, token] = [null, 0];
  const gap = (isBefore, end) => {
    const here = [];
    while (waiting.length && isBefore(waiting[0])) here.push({ token_span: null, ...waiting.shift() });
    if (observations && offsets && end > token) {
      if (here.length) here[0].token_span = [token, end];
      else here.push({ span: [offsets[token][0], offsets[end - 1][1]], token_span: [token, end] });
    }
    items.push(...here.map((observation) => ({ observation })));
  };
  for (const step of steps) {
    gap(({ span }) => span[1] <= step.span[0], step.token_span?.[0] ?? token);
    token = step.token_span?.[1] ?? token;
    if (several && (step.turn ?? 0) !== turn) items.push({ turn: (turn = step.turn ?? 0) });
    items.push({ step });
  }
  gap(() => true, steps.at(-1)?.token_span ? (offsets?.length ?? 0) : token);
  return items;
}

/**
 * What is labelled: for each step, the observation after it. One before the first step is a part of the question.
 *
 * @returns {{question: string, observations: (string | null)[]}} no observations if there are none
 */
export function observationsAfter(question, text, steps, observations) {
  const points = new Text(text);
  const after = steps.map(() => null);
  let asked = question;
  for (const { span } of observations ?? []) {
    const observed = points.slice(...span).trim();
    const step = steps.findLastIndex((each) => each.span[1] <= span[0]);
    if (step < 0) asked = `${asked}${GAP}${observed}`;
    else after[step] = after[step] ? `${after[step]}${GAP}${observed}` : observed;
  }
  return { question: asked, observations: after.some(Boolean) ? after : [] };
}

/** Labelled steps and observations as one text, as `capo eval` sends them: {text, steps, observations}. */
export function joined(steps, observations = []) {
  const parts = [];
  const spans = [];
  let at = 0;
  const add = (text, isOwn) => {
    const start = at;
    at += new Text(text).length;
    parts.push([text, isOwn]);
    return [start, at];
  };
  let turn = 0;
  steps.forEach((text, index) => {
    spans.push({ index, span: add(text, true), turn });
    const gap = index < steps.length - 1 ? GAP : "";
    if (observations[index]) {
      add(`${GAP}${observations[index]}${gap}`, false);
      turn += 1;
    } else add(gap, true);
  });
  return { text: parts.map(([text]) => text).join(""), steps: spans, observations: spansOf(parts).map((span) => ({ span, left_out: 0 })) };
}

/** The result of a trajectory as chat turns, for the form; null if the policy wrote all of it. */
export function asTurns(text, { observations }) {
  if (!observations?.length) return null;
  const points = new Text(text);
  const turns = [];
  let at = 0;
  const add = (role, from, to) => {
    const content = points.slice(from, to).trim();
    if (content) turns.push({ role, content });
  };
  for (const { span } of observations) {
    add(POLICY, at, span[0]);
    add("tool", ...span);
    at = span[1];
  }
  add(POLICY, at, points.length);
  return turns;
}
