// The form of the Inspect view: examples, fields, and the request that they make.
import { Problem } from "./api.js";
import { $, h } from "./dom.js";
import { isTurns, wireTurn } from "./trajectory.js";
import { wordOffsets } from "./words.js";

export const FIELDS = ["question", "written", "response-a", "response-b", "url-b", "compare", "outcome", "reference", "tokenizer", "ids", "criteria", "sampling", "n", "style",
  "thinking", "segment", "pattern", "observation", "temperature", "seed"];
const WORDS = ":words"; // no tokenizer's name

/** Offer the tokenizers and limits that the service reports. */
export function applyInfo(info) {
  const chosen = $("tokenizer").value;
  const served = info.tokenizers.map((name) => [name, name]);
  const options = [...served, [WORDS, served.length ? "words" : "words, because the service serves no tokenizer"], ["", "none"]];
  $("tokenizer").replaceChildren(...options.map(([value, name]) => h("option", { value }, name)));
  $("tokenizer").value = options.some(([value]) => chosen && value === chosen) ? chosen : options[0][0];
  $("n").max = info.limits.max_critiques;
  if (info.limits.max_thinking_tokens !== undefined) $("thinking").max = info.limits.max_thinking_tokens;
}

/** Fill the list of examples; choosing one fills the fields. */
export async function offerExamples() {
  try {
    const lines = (await (await fetch("ui/examples.jsonl")).text()).trim().split("\n").map(JSON.parse);
    lines.forEach((line, i) => $("example").append(h("option", { value: i }, `${i + 1}: ${line.question.slice(0, 60)}`)));
    $("example").addEventListener("change", () => lines[$("example").value] && useExample(lines[$("example").value], lines));
  } catch {
    $("example").disabled = true;
  }
}

function useExample(line, lines) {
  $("question").value = line.question;
  $("written").value = "text";
  $("response-a").value = line.response;
  $("reference").value = line.reference || "";
  $("outcome").value = [0, 1].includes(line.outcome) ? String(line.outcome) : "";
  $("ids").value = "";
  const others = lines.filter((other) => other.question === line.question && other.response !== line.response);
  const shown = $("compare").value === "group" ? others : others.slice(0, 1);
  if (shown.length) $("response-b").value = shown.map((other) => other.response).join(SEPARATOR);
}

/** Show the fields that the chosen options need. */
export function arrange() {
  const compared = $("compare").value;
  $("other-rollout").hidden = !["rollout", "group"].includes(compared);
  $("other-rollout-name").textContent = compared === "group" ? "Other rollouts, with a line --- between them" : "Other rollout";
  $("other-judge").hidden = compared !== "judge";
  for (const id of ["n", "temperature"]) $(id).disabled = $("sampling").value === "greedy";
  $("pattern-label").hidden = $("segment").value !== "regex";
  const isText = $("written").value === "text";
  $("question").required = isText; // chat turns may begin with it
  $("response-a").placeholder = isText ? "" : TURNS;
  $("response-b").required = !$("other-rollout").hidden;
  $("url-b").required = !$("other-judge").hidden;
}

const TURNS = '[{"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]}, {"role": "tool", "content": "42"}, {"role": "assistant", "content": "It is 42."}]';
const SEPARATOR = "\n---\n";

/** The rollouts to credit beside the first. */
export function others() {
  const text = $("response-b").value;
  if ($("compare").value === "rollout") return [text];
  return $("compare").value === "group" ? text.split(/\n-{3,}[ \t]*\n/).filter((each) => each.trim()) : [];
}

/** The options of the request. */
export function options(rollout) {
  const greedy = $("sampling").value === "greedy";
  const voting = greedy ? { method: "greedy" } : { method: "average", n: Number($("n").value), early_stop: false };
  if (!greedy && $("temperature").value) voting.temperature = Number($("temperature").value);
  if ($("thinking").value) voting.thinking_tokens = Number($("thinking").value);
  if ($("seed").value) voting.seed = Number($("seed").value);
  if ($("style").value) voting.critique_style = $("style").value;
  const scheme = rollout.criteria ? "criteria" : rollout.outcome !== undefined || rollout.reference ? null : "process_only";
  const segment = $("segment").value ? { method: $("segment").value } : {};
  if (segment.method === "regex") segment.pattern = $("pattern").value;
  const observed = $("observation").value ? { max_observation_tokens: Number($("observation").value) } : {};
  return { voting, segment, ...observed, reward: scheme ? { scheme } : {}, include: ["token_rewards", "critiques", "thinking"], priority: "evaluation", run: "inspector" };
}

/**
 * Criteria of the form, one a line: "pitfall: a sentence"; without a kind it is a requirement.
 *
 * @returns {{id: string, kind: string, text: string}[]}
 */
export function readCriteria(text) {
  return text.split("\n").map((line) => line.trim()).filter(Boolean).map((line, i) => {
    const [, kind, rest] = line.match(/^(pitfall|requirement|bonus)\s*:\s*(.*)$/i) ?? [null, "requirement", line];
    return { id: `c${i + 1}`, kind: kind.toLowerCase(), text: rest };
  });
}

/**
 * The fields of a rollout that is written as chat turns. Without a question, the turns before the policy's first are it.
 *
 * @throws {Problem} the text is no list of chat turns
 */
function fromTurns(text) {
  let turns = null;
  try {
    turns = JSON.parse(text);
  } catch (error) {
    throw new Problem("", "The chat turns are not JSON", `${error.message}. Write them as ${TURNS}`);
  }
  if (!isTurns(turns)) throw new Problem("", "The rollout is no list of chat turns", `Each turn needs a role, and content or tool_calls: ${TURNS}`);
  const first = $("question").value.trim() ? 0 : Math.max(turns.findIndex((turn) => turn.role === "assistant"), 0);
  if (!first && !$("question").value.trim()) throw new Problem("", "The question is missing", "Fill in the question, or begin the chat turns with it: those before the first turn of role assistant are the question.");
  const asked = first ? { messages: turns.slice(0, first).map(wireTurn) } : { question: $("question").value };
  return { ...asked, response_turns: turns.slice(first).map(wireTurn) };
}

/**
 * The rollout of the request, and its tokens: of the chosen tokenizer, or words.
 *
 * @param service tokenizes
 * @param {string} response
 * @param {boolean} isFirst whether the outcome and the sampled ids of the form belong to it
 */
export async function prepare(service, response, isFirst) {
  const isText = $("written").value === "text";
  const rollout = isText ? { question: $("question").value, response } : fromTurns(response);
  // The outcome is the first rollout's; a reference decides that of the others.
  if ($("outcome").value && (isFirst || !$("reference").value)) rollout.outcome = Number($("outcome").value);
  if ($("reference").value) rollout.reference = $("reference").value;
  const criteria = readCriteria($("criteria").value);
  if (criteria.length) rollout.criteria = criteria;
  const tokenizer = $("tokenizer").value;
  if (!tokenizer || !isText) return { rollout, tokens: null };
  if (tokenizer === WORDS) {
    rollout.token_offsets = wordOffsets(response);
    return { rollout, tokens: { token_offsets: rollout.token_offsets, response_token_ids: null, by: "words", note: $("tokenizer").selectedOptions[0].textContent } };
  }
  const asked = { tokenizer, response };
  const ids = isFirst && $("ids").value.trim();
  if (ids) asked.response_token_ids = ids.split(/[\s,[\]]+/).filter(Boolean).map(Number);
  const tokens = await service.tokens(asked);
  rollout.response_token_ids = tokens.response_token_ids;
  rollout.token_offsets = tokens.token_offsets;
  return { rollout, tokens };
}
