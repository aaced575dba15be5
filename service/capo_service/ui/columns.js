// Which column of a file holds the question, the response and so on: a guess from the names that
// TRL, verl, OpenRLHF, SkyRL and others use, and the values by that mapping.
import { conversationText, isTurns, trajectoryText, usesTools, wireTurn } from "./trajectory.js";

/** What a column can hold, with the label in the form. */
export const FIELDS = {
  question: "Question, prompt or messages", response: "Response or completion", reference: "Reference answer",
  outcome: "Outcome (right or wrong)", reward: "Reward", token_rewards: "Token rewards", step: "Training step", run: "Run", id: "Id",
};

// In order of preference.
const NAMES = {
  response: ["response", "completion", "output", "output_response", "generation", "prediction", "model_output", "responses", "completions", "outputs", "response_turns"],
  question: ["question", "messages", "prompt", "input_prompt", "problem", "query", "instruction", "input", "conversation", "prompts"],
  reference: ["reference", "reference_answer", "ground_truth", "gts", "answer", "gold", "target", "label", "solution", "reward_model.ground_truth", "extra_info.answer"],
  outcome: ["outcome", "correct", "is_correct", "right", "acc", "accuracy"],
  token_rewards: ["token_rewards", "token_level_rewards", "token_level_scores", "token_scores"],
  reward: ["reward", "score", "total_reward", "reward_score", "rewards", "scores"],
  step: ["step", "global_step", "global_steps", "training_step", "iteration", "head_version"],
  run: ["run", "run_name", "experiment"],
  id: ["id", "uid", "sample_id", "task_id", "prompt_id", "index"],
};

const own = (object, name) => object !== null && typeof object === "object" && Object.prototype.hasOwnProperty.call(object, name);

/** The value at a column: its name, or a path such as reward_model.ground_truth. */
export function at(record, column) {
  if (!column) return undefined;
  if (own(record, column)) return record[column];
  return column.split(".").reduce((value, name) => (own(value, name) ? value[name] : undefined), record);
}

/** The columns of a record; those of nested objects as paths. */
export function columnsOf(record) {
  return Object.entries(record).flatMap(([name, value]) => {
    const nested = value !== null && typeof value === "object" && !Array.isArray(value);
    return nested ? Object.keys(value).slice(0, 30).map((inner) => `${name}.${inner}`) : [name];
  });
}

/** @returns {Object<string, string>} the column of each field, where one is found */
export function guess(record) {
  const columns = columnsOf(record);
  const mapping = {};
  const free = (column) => !Object.values(mapping).includes(column);
  for (const [field, names] of Object.entries(NAMES)) {
    const found = names.map((name) => columns.find((column) => column.toLowerCase() === name && free(column))).find(Boolean);
    if (found && at(record, found) !== null) mapping[field] = found;
  }
  if (!mapping.reward) {
    // TRL has a column for each reward function.
    const found = columns.find((column) => /reward|score/i.test(column) && typeof at(record, column) === "number" && free(column));
    if (found) mapping.reward = found;
  }
  const asked = at(record, mapping.question);
  if (!mapping.response && isTurns(asked) && asked.at(-1).role === "assistant") mapping.response = mapping.question;
  if (!mapping.response && mapping.reference && /solution/i.test(mapping.reference)) {
    mapping.response = mapping.reference;
    delete mapping.reference;
  }
  return mapping;
}

/** Text of a value: a string, chat turns, or text parts. */
export function textOf(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "string") return value;
  if (isTurns(value)) return conversationText(value);
  if (Array.isArray(value) && value.length && value.every((part) => typeof part?.text === "string")) return value.map((part) => part.text).join("");
  if (typeof value === "object") return JSON.stringify(value);
  return String(value);
}

const sum = (values) => values.reduce((total, value) => total + value, 0);
const isNumbers = (value) => Array.isArray(value) && value.length > 0 && value.every((each) => typeof each === "number");

/** A number, also of text, a truth value or numbers by token; null of anything else. */
export function numberOf(value) {
  if (typeof value === "boolean") return Number(value);
  if (isNumbers(value)) return sum(value); // per token; the reward of the rollout is their sum
  const number = typeof value === "string" && value.trim() ? Number(value) : value;
  return typeof number === "number" && Number.isFinite(number) ? number : null;
}

function outcomeOf(value) {
  if (typeof value === "string") {
    if (/^(true|correct|right|yes)$/i.test(value.trim())) return 1;
    if (/^(false|incorrect|wrong|no)$/i.test(value.trim())) return 0;
  }
  const number = numberOf(value);
  return number === null ? null : Math.min(Math.max(number, 0), 1);
}

/** The fields of a record by a mapping; null where it has none. */
export function readFields(record, mapping) {
  const value = (field) => at(record, mapping[field]);
  let asked = value("question");
  let answered = value("response");
  if (mapping.question && mapping.question === mapping.response && isTurns(asked)) {
    // A conversation with tools is a trajectory from the policy's first turn on.
    const first = usesTools(asked) ? asked.findIndex((turn) => turn.role === "assistant") : asked.length - 1;
    [asked, answered] = [asked.slice(0, first), asked.slice(first)];
  }
  const hasTurns = isTurns(answered) && (answered.length > 1 || usesTools(answered)) && answered.every((turn) => typeof turn.role === "string");
  const turns = hasTurns ? answered.map(wireTurn) : null;
  const text = (field) => (value(field) === undefined || value(field) === null ? null : textOf(value(field)));
  return {
    question: textOf(asked),
    messages: isTurns(asked) && asked.every((turn) => typeof turn.role === "string") ? asked : null,
    turns,
    response: turns ? trajectoryText(turns).text : textOf(answered),
    reference: text("reference"),
    outcome: outcomeOf(value("outcome")),
    reward: numberOf(value("reward")),
    token_rewards: isNumbers(value("token_rewards")) ? value("token_rewards") : null,
    step: numberOf(value("step")),
    run: text("run"),
    id: text("id"),
  };
}

const KEPT = "capo-columns:";

/** The mapping that was chosen for a file with these columns, in this session. */
export function remembered(columns) {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT + [...columns].sort().join()));
  } catch {
    return null;
  }
}

export function remember(columns, mapping) {
  sessionStorage.setItem(KEPT + [...columns].sort().join(), JSON.stringify(mapping));
}
