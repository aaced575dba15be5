// View of a credited rollout: steps tinted by votes, tokens with rewards, critiques per step.
import { criteriaTable } from "./criteria.js";
import { critiqueList, voteTable, whyFlagged } from "./critiques.js";
import { h, number, signed, Text } from "./dom.js";
import { observationView, turnHeading } from "./observations.js";
import { fillStep } from "./step_text.js";
import { truncatedThoughts } from "./thoughts.js";
import { inOrder } from "./trajectory.js";
import { asJudged, revote } from "./votes.js";
import { many, percent, votesInWords } from "./words.js";

/**
 * Show a credited rollout in an element, instead of what it shows now. For any view of the page.
 *
 * Each step is an `li.step` with `data-step`, focusable; `onStep` is called when it is clicked or
 * Enter is pressed on it.
 *
 * @param {HTMLElement} element
 * @param {object} options
 * @param {{title?: string, question?: string, text?: string, tokens?: object | null, timing?: object | null}} options.rollout
 *   `text` defaults to `result.response`; `tokens` is {response_token_ids, token_offsets} or null
 * @param {object} options.result one result of `POST /credit`: {steps, critiques, outcome, usage, suspicion}
 * @param {{method, k, scheme, w_whole, w_process}} [options.vote] default: the result as it is
 * @param {(index: number, step: HTMLElement) => void} [options.onStep]
 * @param {Object<number, "right" | "wrong">} [options.labels] by step: what a person says
 * @returns {{element: HTMLElement, setLabel: (index: number, label: "right" | "wrong" | null) => void}}
 */
export function renderRollout(element, { rollout, result, vote = null, onStep = null, labels = {} }) {
  const entry = { tokens: null, timing: null, ...rollout, text: rollout.text ?? result.response ?? "", result };
  const voted = vote ? revote(result, vote) : asJudged(result);
  const rewards = voted.steps.map((step) => step.reward).filter((reward) => reward !== null && reward !== undefined);
  const bounds = [Math.min(...rewards, 0), Math.max(...rewards, 0)];
  const view = rolloutView(entry, voted, bounds, rollout.title || "Rollout");
  element.replaceChildren(view);
  const steps = [...view.querySelectorAll("li.step")];
  const setLabel = (index, label) => {
    const step = steps[index];
    step.querySelector(".label")?.remove();
    if (!label) return delete step.dataset.label;
    step.dataset.label = label;
    step.querySelector(".gutter").append(h("span", { class: "label" }, `label: ${label}`));
  };
  steps.forEach((step, index) => {
    setLabel(index, labels[index]);
    if (!onStep) return;
    step.classList.add("clickable");
    step.addEventListener("click", (event) => event.target.closest("details, a, button") || onStep(index, step));
    step.addEventListener("keydown", (event) => event.target === step && event.key === "Enter" && onStep(index, step));
  });
  return { element: view, setLabel };
}

/**
 * @param entry {question, text, tokens: {response_token_ids, token_offsets} | null, result, timing}
 * @param voted result of `revote`; its steps may have an `advantage`, which is then shown and colours the tokens
 * @param bounds [lowest, highest] reward (or advantage), for the colours
 * @param more elements after the critiques
 */
export function rolloutView(entry, voted, bounds, title, more = null) {
  const { result } = entry;
  const critiques = result.critiques || [];
  const text = new Text(entry.text);
  const tip = h("p", { class: "tip", role: "status", "aria-live": "polite" }, hint(entry));
  const items = inOrder(voted.steps, result.observations ?? null, entry.tokens?.token_offsets ?? null);
  const steps = items.map(({ step, observation, turn }) =>
    step ? stepView(step, entry, text, bounds, tip) : observation ? observationView(observation, entry, text, tip) : turnHeading(turn));
  return h(
    "section",
    { class: "rollout", "aria-label": title, tabindex: -1 },
    h("header", {}, h("h2", {}, title), facts(entry, voted)),
    (result.suspicion || []).map((each) =>
      h("p", { class: "suspicion" }, `Reward-hacking flag, ${each.reason.replaceAll("_", " ")}: ${each.detail}`, each.action === "flag" ? "" : ` (action: ${each.action})`),
    ),
    voted.rewards === null && voted.judges ? h("p", { class: "note" }, voted.scheme === "criteria" ? "This scheme needs criteria, and the rollout has none." : "This scheme needs an outcome. Set the outcome, or use scheme process_only.") : null,
    voted.inWindows ? h("p", { class: "dim" }, "Each window of steps was voted on separately. Voting method and k are those of the request; scheme and weights can be changed.") : null,
    h("ol", { class: "steps", start: 0 }, steps),
    tip,
    criteriaTable(result, title, voted.amounts ?? null),
    voteTable(voted.steps, critiques, title),
    critiques.length ? [h("h3", {}, "Critiques"), critiqueList(critiques, result.windows)] : null,
    more,
  );
}

function hint({ tokens }) {
  if (!tokens) return "No tokens: the result has none, or no tokenizer was chosen.";
  const how = "Hover over a token, or focus a step and press ← or →, to see its reward";
  return tokens.by === "words" ? `${how}. Tokens: ${tokens.note || "words"}.` : `${how} and id.`;
}

function facts(entry, voted) {
  const { result, timing } = entry;
  const { usage, outcome } = result;
  const wrong = voted.steps.filter((step) => step.wrong).length;
  const checked = (result.critiques || []).some((critique) => critique.critic === "symbolic");
  const items = [
    outcome ? [`outcome ${number(outcome.value)}`, outcome.value >= 0.5 ? "good" : "bad"] : ["outcome unknown", ""],
    [`${wrong} of ${many(voted.steps.length, "step")} wrong`, wrong ? "bad" : "good"],
    result.observations ? [turnsInWords(result), ""] : null,
    usage && [`${many(usage.critiques_run, "critique")}${checked ? " + arithmetic" : ""}`, ""],
    usage && [tokensInWords(usage), ""],
    [truncatedThoughts(result.critiques || []), "warn"],
    result.windows > 1 ? [`judged in ${result.windows} windows`, ""] : null,
    timing ? [`${number(timing.total / 1000)} s`, ""] : null,
    result.cached ? ["cached result", ""] : null,
  ];
  return h("ul", { class: "facts" }, items.filter((item) => item?.[0]).map(([text, kind]) => h("li", { class: kind }, text)));
}

/** "3 turns, 2 observations" */
function turnsInWords({ steps, observations }) {
  return `${many(new Set(steps.map((step) => step.turn ?? 0)).size, "turn")}, ${many(observations.length, "observation")}`;
}

function tokensInWords({ completion_tokens: completion, thinking_tokens: thinking, prompt_tokens: prompt, cached_tokens: cached }) {
  const thoughts = thinking ? ` (${number(thinking)} of thoughts)` : "";
  return `${number(completion)} completion tokens${thoughts}, ${number(prompt)} prompt tokens (${number(cached)} cached)`;
}

function stepView(step, entry, text, bounds, tip) {
  const { wrong, valid, arithmetic = 0 } = step.votes;
  const judge = { wrong: wrong - arithmetic, valid: valid - arithmetic };
  const body = h("p", { class: "step-text" });
  fillStep(body, step, entry, text, bounds, tip);
  const label = `Step ${step.index}${step.turn ? ` of turn ${step.turn}` : ""}, ${step.wrong ? "wrong" : "right"}, flagged by ${votesInWords(step)}, reward ${signed(step.reward)}`;
  return h(
    "li",
    { class: `step${step.wrong ? " wrong" : ""}`, "data-step": step.index, tabindex: 0, "aria-label": label,
      style: { "--share": step.votes.share ?? (valid ? wrong / valid : 0) }, onkeydown: (event) => walk(event, body) },
    h("div", { class: "gutter" },
      h("span", { class: "index" }, step.index),
      h("span", { class: "dots", "aria-hidden": "true" }, dots(judge)),
      h("span", { class: "count", title: votesInWords(step) }, step.votes.share == null ? `${judge.wrong}/${judge.valid}` : percent(step.votes.share)),
    ),
    h("div", {}, body, whyFlagged(step, entry.result.critiques || [])),
    h("span", { class: "reward" }, signed(step.reward),
      step.advantage === undefined ? null : h("span", { class: "advantage", title: "advantage (eq. 2)" }, `A ${signed(step.advantage)}`)),
  );
}

function dots({ wrong, valid }) {
  const most = 32;
  const shown = Math.min(valid, most);
  return "●".repeat(Math.min(wrong, shown)) + "○".repeat(Math.max(shown - wrong, 0));
}

/** Arrow keys move between the tokens of a focused step. */
function walk(event, body) {
  if (event.key !== "ArrowRight" && event.key !== "ArrowLeft") return;
  const all = [...body.querySelectorAll(".token, .formula, .call")];
  if (!all.length) return;
  event.preventDefault();
  const now = all.findIndex((token) => token.classList.contains("here"));
  const next = now < 0 ? 0 : Math.min(Math.max(now + (event.key === "ArrowRight" ? 1 : -1), 0), all.length - 1);
  all[now]?.classList.remove("here");
  all[next].classList.add("here");
  all[next].dispatchEvent(new Event("mouseenter"));
}
