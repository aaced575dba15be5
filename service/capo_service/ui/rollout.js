// View of a credited rollout: steps tinted by votes, tokens with rewards, critiques per step.
import { h, number, signed, Text } from "./dom.js";
import { revote } from "./votes.js";

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
  const voted = vote ? revote(result, vote) : { steps: result.steps, judges: 1, rewards: result.steps.map((step) => step.reward) };
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
 * @param voted result of `revote`
 * @param bounds [lowest, highest] reward, for the colours
 */
export function rolloutView(entry, voted, bounds, title) {
  const { result } = entry;
  const text = new Text(entry.text);
  const tip = h("p", { class: "tip", role: "status", "aria-live": "polite" }, "Hover over a token, or focus a step and press ← or →, to see its reward and id.");
  const steps = voted.steps.map((step) => stepView(step, entry, text, bounds, tip));
  return h(
    "section",
    { class: "rollout", "aria-label": title },
    h("header", {}, h("h2", {}, title), facts(entry, voted)),
    (result.suspicion || []).map((each) =>
      h("p", { class: "suspicion" }, `Reward-hacking flag, ${each.reason.replaceAll("_", " ")}: ${each.detail}`, each.action === "flag" ? "" : ` (action: ${each.action})`),
    ),
    voted.rewards === null && voted.judges ? h("p", { class: "note" }, "This scheme needs an outcome. Set the outcome, or use scheme process_only.") : null,
    h("ol", { class: "steps", start: 0 }, steps),
    tip,
    matrix(voted, result, title),
    h("h3", {}, "Critiques"),
    h("ol", { class: "critiques" }, (result.critiques || []).map((critique, i) => critiqueView(critique, i))),
  );
}

function facts(entry, voted) {
  const { result, timing } = entry;
  const { usage, outcome } = result;
  const wrong = voted.steps.filter((step) => step.wrong).length;
  const items = [
    outcome ? [`outcome ${number(outcome.value)}`, outcome.value >= 0.5 ? "good" : "bad"] : ["outcome unknown", ""],
    [`${wrong} of ${voted.steps.length} steps wrong`, wrong ? "bad" : "good"],
    [`${usage.critiques_run} critiques`, ""],
    [`${number(usage.completion_tokens)} completion tokens, ${number(usage.prompt_tokens)} prompt tokens (${number(usage.cached_tokens)} cached)`, ""],
    timing ? [`${number(timing.total / 1000)} s`, ""] : null,
    result.cached ? ["cached result", ""] : null,
  ];
  return h("ul", { class: "facts" }, items.filter(Boolean).map(([text, kind]) => h("li", { class: kind }, text)));
}

function stepView(step, entry, text, bounds, tip) {
  const share = step.votes.valid ? step.votes.wrong / step.votes.valid : 0;
  const named = (entry.result.critiques || [])
    .map((critique, i) => [critique, i])
    .filter(([critique]) => critique.valid && critique.wrong_steps.includes(step.index));
  const body = h("p", { class: "step-text", style: { "--heat": heat(step.reward, bounds) } }, tokens(step, entry, text, tip));
  const label = `Step ${step.index}, ${step.wrong ? "wrong" : "right"}, ${step.votes.wrong} of ${step.votes.valid} votes against it, reward ${signed(step.reward)}`;
  return h(
    "li",
    { class: `step${step.wrong ? " wrong" : ""}`, "data-step": step.index, tabindex: 0, "aria-label": label, style: { "--share": share }, onkeydown: (event) => walk(event, body) },
    h("div", { class: "gutter" },
      h("span", { class: "index" }, step.index),
      h("span", { class: "dots", "aria-hidden": "true" }, dots(step.votes)),
      h("span", { class: "count" }, `${step.votes.wrong}/${step.votes.valid}`),
    ),
    h("div", {},
      body,
      named.length
        ? h("details", { class: "beside" }, h("summary", {}, named.length === 1 ? "1 critique flags it as wrong" : `${named.length} critiques flag it as wrong`),
            reasons(named, step.index))
        : null,
    ),
    h("span", { class: "reward" }, signed(step.reward)),
  );
}

/** The analyses of the critiques that flag a step; critiques without one are counted. */
function reasons(named, index) {
  const bare = named.filter(([critique]) => analysisOf(critique) === NO_ANALYSIS).length;
  const spoken = named.filter(([critique]) => analysisOf(critique) !== NO_ANALYSIS);
  return [
    spoken.map(([critique, i]) => {
      // The arithmetic checker's critique has a line per step.
      const lines = critique.critic === "symbolic" ? critique.text.split("\n").filter((line) => line.startsWith(`Step ${index}:`)) : [];
      return h("blockquote", {}, h("cite", {}, name(critique, i)), " ", lines.length ? lines.join("\n") : analysisOf(critique));
    }),
    bare ? h("blockquote", {}, h("cite", {}, bare === 1 ? "1 critique" : `${bare} critiques`), ` ${NO_ANALYSIS}`) : null,
  ];
}

function dots({ wrong, valid }) {
  const most = 32;
  const shown = Math.min(valid, most);
  return "●".repeat(Math.min(wrong, shown)) + "○".repeat(Math.max(shown - wrong, 0));
}

/** Position between the lowest and the highest reward, in percent. */
function heat(reward, [low, high]) {
  if (reward === null || reward === undefined) return "50%";
  return `${Math.round((high > low ? (reward - low) / (high - low) : 1) * 100)}%`;
}

function tokens(step, entry, text, tip) {
  const [start, end] = step.span;
  const span = step.token_span;
  if (!span || !entry.tokens) return text.slice(start, end).trimEnd();
  const last = start + Array.from(text.slice(start, end).trimEnd()).length;
  const { token_offsets: offsets, response_token_ids: ids } = entry.tokens;
  const parts = [];
  let at = start;
  for (let i = span[0]; i < span[1]; i++) {
    const [from, to] = offsets[i];
    const content = text.slice(Math.max(from, at), Math.max(to, at));
    if (from > at) parts.push(text.slice(at, from));
    at = Math.max(at, to);
    const shown = `token ${i} · id ${ids ? ids[i] : "not sent"} · reward ${signed(step.reward)}`;
    const tell = () => (tip.textContent = `${JSON.stringify(text.slice(from, to))} · ${shown}`);
    // White space at the end of a step is shown by symbols, not as empty lines.
    const shownText = from >= last && content ? content.replaceAll("\n", "⏎").replaceAll(" ", "·") : content;
    parts.push(h("span", { class: content && from < last ? "token" : "token bare", title: shown, "data-token": i, onmouseenter: tell, onfocus: tell }, shownText || "▹"));
  }
  if (at < end) parts.push(text.slice(at, end).trimEnd());
  return parts;
}

/** Arrow keys move between the tokens of a focused step. */
function walk(event, body) {
  if (event.key !== "ArrowRight" && event.key !== "ArrowLeft") return;
  const all = [...body.querySelectorAll(".token")];
  if (!all.length) return;
  event.preventDefault();
  const now = all.findIndex((token) => token.classList.contains("here"));
  const next = now < 0 ? 0 : Math.min(Math.max(now + (event.key === "ArrowRight" ? 1 : -1), 0), all.length - 1);
  all[now]?.classList.remove("here");
  all[next].classList.add("here");
  all[next].dispatchEvent(new Event("mouseenter"));
}

/** Table of votes: critiques by steps. */
function matrix(voted, result, title) {
  const critiques = result.critiques || [];
  if (!critiques.length || voted.steps.length > 60) return null;
  const rows = critiques.map((critique, i) =>
    h("tr", { class: critique.valid ? "" : "invalid" },
      h("th", { scope: "row" }, name(critique, i)),
      voted.steps.map((step) => {
        const wrong = critique.valid && critique.wrong_steps.includes(step.index);
        const word = !critique.valid ? "unreadable" : wrong ? "wrong" : critique.critic === "symbolic" ? "abstains" : "right";
        return h("td", { class: word }, h("span", { class: "sr" }, word));
      })),
  );
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Votes: ${title}` },
    h("table", { class: "matrix" },
      h("caption", {}, "Votes: critiques by steps"),
      h("thead", {}, h("tr", {}, h("td", { class: "corner" }), voted.steps.map((step) => h("th", { scope: "col" }, step.index)))),
      h("tbody", {}, rows)));
}

function name(critique, i) {
  return critique.critic === "symbolic" ? "arithmetic" : `critique ${i + 1}`;
}

const NO_ANALYSIS = "(verdict only)";

/** The analysis of a critique; its whole text if it is not JSON. */
function analysisOf(critique) {
  try {
    return JSON.parse(critique.text).analysis || NO_ANALYSIS;
  } catch {
    return critique.text || "(empty)";
  }
}

function critiqueView(critique, i) {
  const verdict = !critique.valid ? `unreadable: ${critique.reason}` : critique.wrong_steps.length ? `wrong: ${critique.wrong_steps.join(", ")}` : "no wrong steps";
  return h("li", { class: critique.valid ? "" : "invalid" },
    h("details", {}, h("summary", {}, `${name(critique, i)} · ${verdict}`), h("pre", { tabindex: 0 }, critique.text)));
}
