// The form of the Inspect view: examples, fields, and the request that they make.
import { $, h } from "./dom.js";
import { wordOffsets } from "./words.js";

export const FIELDS = ["question", "response-a", "response-b", "url-b", "compare", "outcome", "reference", "tokenizer", "ids", "criteria", "sampling", "n", "style",
  "thinking", "segment", "pattern", "temperature", "seed"];
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
  $("response-b").required = !$("other-rollout").hidden;
  $("url-b").required = !$("other-judge").hidden;
}

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
  const segment = { method: $("segment").value };
  if (segment.method === "regex") segment.pattern = $("pattern").value;
  return { voting, segment, reward: scheme ? { scheme } : {}, include: ["token_rewards", "critiques", "thinking"], priority: "evaluation", run: "inspector" };
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
 * The rollout of the request, and its tokens: of the chosen tokenizer, or words.
 *
 * @param service tokenizes
 * @param {string} response
 * @param {boolean} isFirst whether the outcome and the sampled ids of the form belong to it
 */
export async function prepare(service, response, isFirst) {
  const rollout = { question: $("question").value, response };
  // The outcome is the first rollout's; a reference decides that of the others.
  if ($("outcome").value && (isFirst || !$("reference").value)) rollout.outcome = Number($("outcome").value);
  if ($("reference").value) rollout.reference = $("reference").value;
  const criteria = readCriteria($("criteria").value);
  if (criteria.length) rollout.criteria = criteria;
  const tokenizer = $("tokenizer").value;
  if (!tokenizer) return { rollout, tokens: null };
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
