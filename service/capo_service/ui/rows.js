// Rollouts of files and of the live view as rows of a table: what is filtered, sorted and searched
// stays in memory; critiques and token rewards are read from the file when a row is opened.
import { numberOf, readFields, textOf } from "./columns.js";
import { readPlace } from "./jsonfile.js";
import { cutIntoTurns, joined, offsetsOf, trajectoryText } from "./trajectory.js";

/**
 * @typedef {object} Row
 * @property {"credited" | "not credited" | "failed"} state
 * @property {string} id
 * @property {string} question
 * @property {string} response
 * @property {string | null} reference
 * @property {number | null} outcome in [0, 1]
 * @property {number | null} reward of the rollout; of a credited one the mean over its tokens
 * @property {number | null} steps
 * @property {number | null} wrong steps that the vote found wrong
 * @property {number | null} agreement of the critiques, in [0.5, 1]
 * @property {string[]} flags reasons of reward-hacking flags
 * @property {number | null} tokens of the response
 * @property {string | null} run
 * @property {number | null} step of the training
 * @property {string | null} key API key, in the live view
 * @property {number | null} time seconds since 1970, in the live view
 * @property {object} place where the record is: {file, start, end, path} or {value}
 * @property {object | null} texts where the joined texts are, likewise
 * @property {object | null} mapping columns of a record that is not this project's own
 */

/** Whose format a record has: run, result, entry, labels, metrics, list (of records), table (columns), or other. */
export function kindOf(record) {
  const has = (name) => Object.prototype.hasOwnProperty.call(record, name);
  if ((record.kind === "train" || record.kind === "evaluation") && typeof record.step === "number") return "metrics";
  if (has("credit") && has("response")) return "run";
  if (record.status === "ok" && Array.isArray(record.steps) && record.steps[0]?.votes) return "result";
  if (record.status === "error" && typeof record.error?.detail === "string") return "result";
  if (has("result") && has("text") && Array.isArray(record.result?.steps)) return "entry";
  if (Array.isArray(record.steps) && (Array.isArray(record.wrong_steps) || Array.isArray(record.labels)) && has("question")) return "labels";
  if (listIn(record)) return "list";
  return "other";
}

/** The name of the list of records that an object holds, if it holds one. */
export function listIn(record) {
  return ["results", "rollouts", "entries", "data", "log_history"].find((name) => Array.isArray(record[name]) && record[name].length && typeof record[name][0] === "object");
}

const mean = (values) => (values.length ? values.reduce((a, b) => a + b, 0) / values.length : null);

/** As in the service: the mean over steps of the share of votes on the larger side; null with fewer than two votes. */
export function agreementOf(steps) {
  if (steps.length && steps.every(({ votes }) => votes.share != null)) return mean(steps.map(({ votes }) => Math.max(votes.share, 1 - votes.share)));
  if (!steps.length || steps.some((step) => step.votes.valid < 2)) return null;
  return mean(steps.map(({ votes }) => Math.max(votes.wrong, votes.valid - votes.wrong) / votes.valid));
}

/** The mean over the policy's tokens; without tokens, of the step rewards over characters. */
function rewardOf(result) {
  const lengthOf = ([start, end]) => end - start;
  const owned = result.steps.every((step) => step.token_span) && result.steps.some((step) => lengthOf(step.token_span));
  const sizes = result.steps.map((step) => lengthOf(owned ? step.token_span : step.span));
  const size = sizes.reduce((a, b) => a + b, 0);
  return result.steps.reduce((total, step, i) => total + step.reward * sizes[i], 0) / Math.max(size, 1);
}

const EMPTY = {
  state: "not credited", id: "", question: "", response: "", reference: null, outcome: null, reward: null, steps: null, wrong: null,
  agreement: null, flags: [], tokens: null, run: null, step: null, key: null, time: null, line: null, characters: null, error: null, texts: null, mapping: null, own: "", isTrajectory: false,
};

/** What a result of the service says, for a row. */
export function creditOf(result) {
  if (result.status === "error") {
    return { state: "failed", error: `${result.error.status} ${result.error.title}: ${result.error.detail}` };
  }
  return {
    state: "credited",
    error: null,
    outcome: result.outcome?.value ?? null,
    reward: rewardOf(result),
    steps: result.steps.length,
    wrong: result.steps.filter((step) => step.wrong).length,
    agreement: agreementOf(result.steps),
    flags: [...new Set((result.suspicion || []).map((each) => each.reason))],
    tokens: result.token_rewards?.length ?? result.steps.at(-1)?.token_span?.[1] ?? null,
    characters: Math.max(result.steps.at(-1)?.span[1] ?? -1, result.observations?.at(-1)?.span[1] ?? -1, -1),
    isTrajectory: Boolean(result.observations),
  };
}

const tokensOf = (record) => (record.token_offsets ?? record.token_lengths ?? record.response_token_ids)?.length ?? (typeof record.tokens === "number" ? record.tokens : null);

/**
 * A row.
 *
 * @param {object} record
 * @param {string} kind by `kindOf`
 * @param {object} place of the record
 * @param {{mapping?: object, number?: number}} [given]
 * @returns {Row | null} null if the record has no text of a rollout
 * @throws {TypeError} a field of this project's own formats has another type
 */
export function makeRow(record, kind, place, given = {}) {
  const row = rawRow(record, kind, place, given);
  if (!row) return null;
  for (const name of ["id", "question", "response"]) if (typeof row[name] !== "string") throw new TypeError(`${name} is no text`);
  if (row.flags.some((flag) => typeof flag !== "string")) throw new TypeError("a reason is no text");
  for (const name of ["reference", "run"]) if (row[name] !== null) row[name] = String(row[name]);
  for (const name of ["outcome", "reward", "steps", "wrong", "agreement", "tokens", "step"]) row[name] = numberOf(row[name]);
  return row;
}

function rawRow(record, kind, place, { mapping = null, number = 0 }) {
  const row = { ...EMPTY, place, number };
  if (kind === "result") {
    const credit = creditOf(record);
    return { ...row, ...credit, id: String(record.id ?? ""), line: record.line ?? null, question: record.question ?? "", response: record.response ?? "", own: record.response ?? "" };
  }
  if (kind === "run") {
    const credit = record.credit ? creditOf(record.credit) : record.error ? { state: "failed", error: String(record.error) } : {};
    return {
      ...row, outcome: record.outcome ?? null, ...credit, id: String(record.id ?? `${record.step ?? "line"}-${number}`), question: record.question ?? textOf(record.messages), response: record.response_turns ? record.response || trajectoryText(record.response_turns).text : record.response,
      reference: record.reference ?? null, run: record.run ?? null, step: record.step ?? null, tokens: tokensOf(record) ?? credit.tokens ?? null,
    };
  }
  if (kind === "entry") {
    return { ...row, ...creditOf(record.result), id: record.title || record.result.id, question: record.question ?? "", response: record.text };
  }
  if (kind === "labels") {
    return { ...row, id: String(record.id ?? `line-${number}`), question: record.question, response: joined(record.steps, record.observations ?? []).text, isLabels: true };
  }
  const fields = readFields(record, mapping);
  if (!fields.response && !fields.question) return null;
  const { messages, token_rewards: rewards, turns, ...plain } = fields;
  return {
    ...row, ...plain, mapping, isTrajectory: Boolean(turns), id: fields.id ?? `line-${number}`, ownId: fields.id,
    reward: fields.reward ?? (rewards ? rewards.reduce((a, b) => a + b, 0) : null), tokens: rewards?.length ?? tokensOf(record),
  };
}

/** A row of the live view. */
export function liveRow(recent) {
  const place = { value: { question: recent.question, response: recent.result.response, method: recent.method, credit: recent.result } };
  const id = recent.request ? `${recent.request}/${recent.result.id}` : recent.result.id;
  return { ...EMPTY, ...creditOf(recent.result), place, number: 0, id, request: recent.request ?? null, question: recent.question,
    response: recent.result.response ?? "", key: recent.key, run: recent.run, time: recent.at };
}

const read = async (place) => ("value" in place ? place.value : readPlace(place));

/**
 * Everything about a row.
 *
 * @param {Row} row
 * @returns {Promise<{question: string, messages: object[] | null, text: string, tokens: object | null, result: object | null,
 *   steps: object[] | null, observations: object[] | null, tokenRewards: number[] | null, tokenizer: string | null,
 *   method: string | null, sent: object}>} `tokens` is {response_token_ids, token_offsets}; `sent` has the fields of
 *   the wire that say what the policy wrote, and its tools
 */
export async function load(row) {
  const record = await read(row.place);
  const texts = row.texts ? await read(row.texts) : record;
  const fields = row.mapping ? readFields(texts, row.mapping) : null;
  const inner = record.credit ?? (record.result?.steps ? record.result : record.status === "ok" ? record : null);
  const offsets = offsetsOf(texts) ?? offsetsOf(texts.tokens);
  const turns = fields?.turns ?? texts.response_turns ?? null;
  const { response_mask: mask = null, observations: spans = null, tools = null } = texts;
  const cut = inner ? null : row.isLabels ? labelled(record) : cutIntoTurns(row.response, turns ? trajectoryText(turns) : { mask, offsets, observations: spans });
  return {
    question: row.question,
    messages: fields?.messages ?? texts.messages ?? null,
    text: row.response,
    tokens: offsets ? { token_offsets: offsets, response_token_ids: texts.response_token_ids ?? texts.tokens?.response_token_ids ?? null } : null,
    result: inner?.steps ? { usage: NO_USAGE, ...inner } : null,
    tokenRewards: fields?.token_rewards ?? inner?.token_rewards ?? null,
    steps: cut?.steps ?? null,
    observations: (inner ?? cut)?.observations ?? null,
    sent: { response_turns: turns, response_mask: mask, observations: spans, tools },
    ids: texts.response_token_ids ?? null,
    tokenizer: texts.tokenizer ?? null,
    method: record.method ?? null,
  };
}

/** The steps and observations of a record of labels; null for observations if there are none. */
function labelled(record) {
  const { steps, observations } = joined(record.steps, record.observations ?? []);
  return { steps, observations: observations.length ? observations : null };
}

const NO_USAGE = { critiques_run: 0, prompt_tokens: 0, cached_tokens: 0, completion_tokens: 0 };

/**
 * Bring texts to results that have none, as the output of `capo credit` has none: by the line of
 * the input, or by id.
 *
 * @param {Row[][]} files the rows of each opened file
 * @returns {Row[]} all rows; an input that was joined to its result is left out
 */
export function join(files) {
  const used = new Set();
  const inputs = files.filter((rows) => rows.some((row) => row.state === "not credited"));
  for (const rows of files) {
    const bare = rows.filter((row) => row.state !== "not credited" && (!row.response || row.texts || (row.own && row.line !== null)));
    if (!bare.length) continue;
    const fits = inputs.map((input) => pairs(bare, input)).sort((a, b) => b.size - a.size)[0];
    if (!fits || fits.size < bare.length / 2) continue;
    for (const [row, input] of fits) {
      used.add(input);
      Object.assign(row, { texts: input.place, mapping: input.mapping, question: input.question, response: row.own || input.response, reference: input.reference,
        outcome: row.outcome ?? input.outcome, run: row.run ?? input.run, step: row.step ?? input.step, tokens: row.tokens ?? input.tokens });
    }
  }
  const rows = files.flat().filter((row) => !used.has(row));
  const twice = new Set(labelledTwice(rows));
  return twice.size ? rows.filter((row) => !twice.has(row)) : rows;
}

/** Rows of labels whose rollout is open in another file too: the labels are shown there. */
function labelledTwice(rows) {
  const labels = rows.filter((row) => row.isLabels);
  if (!labels.length) return [];
  const key = (row) => `${row.question}\0${row.response.replace(/\s+/g, "")}`;
  const others = new Set(rows.filter((row) => !row.isLabels).map(key));
  return labels.filter((row) => others.has(key(row)));
}

/** The input of each result: of the same line with the same id, or with the same id. */
function pairs(bare, input) {
  const waiting = input.filter((row) => row.state === "not credited");
  const byLine = new Map(waiting.map((row) => [row.number, row]));
  const byId = new Map(waiting.map((row) => [row.id, row]));
  const found = new Map();
  for (const row of bare) {
    const match = row.line === null ? byId.get(row.id) : byLine.get(row.line);
    const same = match && (match.id === row.id || row.id === `line-${match.number}`);
    if (same && fits(row, match)) found.set(row, match);
  }
  return found;
}

/** Whether an input can be that of a result. White space after the last step may be an environment's. */
function fits(row, input) {
  if (row.own) return input.isTrajectory || row.own === input.response;
  if (row.characters === null || row.characters < 0) return true;
  if (!row.isTrajectory) return row.characters === codePoints(input.response);
  const points = Array.from(input.response);
  return row.characters <= points.length && !points.slice(row.characters).join("").trim();
}

function codePoints(text) {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}
