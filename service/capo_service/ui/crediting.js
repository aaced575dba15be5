// Sends rollouts of files to POST /credit in small batches, and keeps what came back in their rows.
import { Problem } from "./api.js";
import { creditOf, load } from "./rows.js";
import { wireTurn } from "./trajectory.js";

const BATCH = 8; // rollouts of one request
const AT_ONCE = 2; // requests
const RETRIES = 20; // of a request that the service refused because it is busy or loading

/**
 * Credit rows; each is changed in place when its result is there.
 *
 * @param {import("./api.js").Service} service
 * @param {import("./rows.js").Row[]} rows
 * @param {{n: number, method: string, style: string, thinking: string}} chosen `thinking`: a budget in tokens, or empty
 * @param {string[]} tokenizers that the service has
 * @param {{signal: AbortSignal, progress: (done: number, note: string) => void}} watch
 * @throws {Problem} the service refuses all requests, as for a wrong key, or cannot be reached
 */
export async function creditRows(service, rows, chosen, tokenizers, { signal, progress }) {
  const batches = [];
  // Scheme capo needs an outcome: rollouts without one are sent apart.
  for (const known of [true, false]) {
    const part = rows.filter((row) => (row.outcome !== null || row.reference !== null) === known);
    for (let i = 0; i < part.length; i += BATCH) batches.push({ rows: part.slice(i, i + BATCH), known });
  }
  let done = 0;
  const note = (text) => progress(done, text);
  async function work() {
    for (let batch = batches.shift(); batch && !signal.aborted; batch = batches.shift()) {
      await creditBatch(service, batch, chosen, tokenizers, signal, note);
      done += batch.rows.length;
      note("");
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, work));
}

async function creditBatch(service, { rows, known }, chosen, tokenizers, signal, note) {
  const loaded = await Promise.all(rows.map(load));
  const rollouts = rows.map((row, i) => toWire(row, loaded[i], tokenizers, String(i)));
  const voting = { method: chosen.method, early_stop: false };
  if (chosen.method !== "greedy") voting.n = chosen.n;
  if (chosen.style) voting.critique_style = chosen.style;
  if (chosen.thinking) voting.thinking_tokens = Number(chosen.thinking);
  const options = { voting, reward: known ? {} : { scheme: "process_only" }, include: ["token_rewards", "critiques", "thinking"], priority: "evaluation", run: "inspector" };
  try {
    const { results } = await patiently(() => service.creditMany(rollouts, options, signal), signal, note);
    results.forEach((result, i) => keep(rows[i], loaded[i], rollouts[i], result, chosen.method));
  } catch (error) {
    if (!(error instanceof Problem) || ![400, 413, 422].includes(error.status)) throw error;
    if (rows.length === 1) {
      Object.assign(rows[0], { state: "failed", error: `${error.status} ${error.title}: ${error.message}` });
      return;
    }
    // One rollout that cannot be judged must not stop the others of its batch.
    for (const row of rows) await creditBatch(service, { rows: [row], known }, chosen, tokenizers, signal, note);
  }
}

/** Call again after the time that a busy service gives. */
async function patiently(call, signal, note) {
  for (let tries = 0; ; tries++) {
    try {
      return await call();
    } catch (error) {
      if (!(error instanceof Problem) || ![429, 503].includes(error.status) || tries >= RETRIES) throw error;
      const seconds = Math.min(error.retryAfter ?? 3, 60);
      note(`${error.title}: retrying in ${seconds} s`);
      await new Promise((go) => {
        const timer = setTimeout(go, seconds * 1000);
        signal.addEventListener("abort", () => (clearTimeout(timer), go()), { once: true });
      });
      if (signal.aborted) throw new DOMException("canceled", "AbortError");
    }
  }
}

function toWire(row, loaded, tokenizers, id) {
  const { response_turns: turns, response_mask: mask, observations, tools } = loaded.sent;
  const rollout = turns ? { id, response_turns: turns.map(wireTurn) } : { id, response: row.response };
  if (loaded.messages) rollout.messages = loaded.messages.map(wireTurn);
  else rollout.question = row.question;
  if (tools) rollout.tools = tools;
  if (row.reference !== null) rollout.reference = row.reference;
  if (row.outcome !== null) rollout.outcome = row.outcome;
  if (turns) return rollout;
  if (row.isLabels) rollout.steps = loaded.steps.map((step) => step.span);
  if (row.isLabels && loaded.observations) rollout.observations = loaded.observations.map(({ span }) => span);
  else if (observations && !mask) rollout.observations = observations;
  if (mask) rollout.response_mask = mask;
  if (loaded.tokens?.token_offsets) rollout.token_offsets = loaded.tokens.token_offsets;
  else if (loaded.ids && tokenizers.includes(loaded.tokenizer)) Object.assign(rollout, { response_token_ids: loaded.ids, tokenizer: loaded.tokenizer });
  return rollout;
}

function keep(row, loaded, rollout, result, method) {
  const credit = { ...result, id: row.id };
  const { outcome, tokens, ...found } = creditOf(credit);
  Object.assign(row, found, { outcome: outcome ?? row.outcome, tokens: tokens ?? row.tokens });
  if (credit.status === "error") return;
  const { token_offsets: offsets = null, response_token_ids: ids = null } = { ...loaded.tokens, ...rollout };
  row.response = result.response ?? row.response; // of chat turns, the text in which spans are positions
  Object.assign(row, {
    texts: null,
    mapping: null,
    place: { value: { id: row.id, step: row.step, run: row.run, question: row.question, response: row.response, reference: row.reference,
      token_offsets: offsets, response_token_ids: ids, response_mask: rollout.response_mask, tools: rollout.tools, method, credit } },
  });
}

/** The credited rows as lines that this page opens again, in the form of rollouts.jsonl. */
export async function creditedLines(rows) {
  const lines = [];
  for (const row of rows) {
    if (row.state !== "credited") continue;
    const { tokens, result, method, sent } = await load(row);
    const { id, step, run, question, response, reference } = row;
    lines.push(JSON.stringify({ id, step, run, question, response, reference, ...tokens, response_mask: sent.response_mask ?? undefined, tools: sent.tools ?? undefined, method, credit: result }));
  }
  return lines;
}
