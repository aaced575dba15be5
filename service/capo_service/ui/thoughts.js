// What a judge thought before its verdict: folded, as plain text with its formulas rendered.
import { h, number } from "./dom.js";
import { fillText } from "./step_text.js";
import { many } from "./words.js";

const MOST = 100_000; // characters of one thought that are shown

/** "thought of 214 tokens, budget reached"; empty if the judge did not think. */
export function thoughtInWords({ thinking, thinking_tokens: tokens = 0, thinking_truncated: truncated }) {
  if (!tokens && !thinking) return "";
  return `thought of ${number(tokens)} ${tokens === 1 ? "token" : "tokens"}${truncated ? ", budget reached" : ""}`;
}

/** How many of the thoughts reached their budget, for the facts of a rollout; null if none did. */
export function truncatedThoughts(critiques) {
  const thought = critiques.filter((critique) => thoughtInWords(critique));
  const truncated = thought.filter((critique) => critique.thinking_truncated);
  return truncated.length ? `${truncated.length} of ${many(thought.length, "thought")} reached the budget` : null;
}

/**
 * The thought of a critique, closed; null if there is none.
 *
 * @param critique of a result
 * @param {string} title the critique's name
 */
export function thoughtView(critique, title) {
  if (!thoughtInWords(critique)) return null;
  const { thinking, thinking_truncated: truncated } = critique;
  if (!thinking) return h("p", { class: "thought dim" }, "The text of the thought is not in this result: it was requested without include \"thinking\".");
  const body = h("div", { class: "thought-text", tabindex: 0, role: "region", "aria-label": `Thought of ${title}` });
  const fill = (event) => {
    if (!event.target.open || body.dataset.filled) return;
    body.dataset.filled = "yes";
    fillText(body, thinking.length > MOST ? `${thinking.slice(0, MOST)}… (${number(thinking.length)} characters)` : thinking);
  };
  return h("details", { class: "thought", ontoggle: fill },
    h("summary", {}, "Thought"), body,
    truncated ? h("p", { class: "note" }, "The thought reached its budget and was ended here. The verdict follows from what was thought until then.") : null);
}
