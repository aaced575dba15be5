// The judge's prompt of a rollout: text, tokens, and how each critique is sampled. Fetched when it is opened.
import { Service } from "./api.js";
import { h, number } from "./dom.js";

const asked = new WeakMap(); // result -> {service, rollout, options}
const fetched = new WeakMap(); // result -> promise of the prompt

/** Remember how a result was asked for, so that its prompt can be shown. */
export function rememberRequest(result, service, rollout, options) {
  asked.set(result, { service, rollout, options });
}

/** A closed section, which fetches the prompt when it is opened. */
export function promptView(entry) {
  const content = h("div", {}, "");
  const load = async (event) => {
    if (!event.target.open || content.dataset.filled) return;
    content.dataset.filled = "yes";
    content.replaceChildren("Loading.");
    try {
      content.replaceChildren(...shown(await fetchPrompt(entry), asked.has(entry.result)));
    } catch (error) {
      delete content.dataset.filled;
      fetched.delete(entry.result);
      content.replaceChildren(h("p", { class: "note" }, message(error)));
    }
  };
  return h("details", { class: "prompt", ontoggle: load }, h("summary", {}, "Judge's prompt"), content);
}

function message(error) {
  if (error.status === 404) return "This service does not serve prompts: it is older than this page.";
  return `${error.title || "Error"}: ${error.message} ${error.advice || ""}`;
}

function fetchPrompt(entry) {
  const { result } = entry;
  if (!fetched.has(result)) {
    const { service, rollout, options } = asked.get(result) || rebuilt(entry);
    fetched.set(result, service.prompt(rollout, options));
  }
  return fetched.get(result);
}

/** A request for a result that this page did not ask for: its steps are given, its options are unknown. */
function rebuilt({ question, text, result }) {
  const steps = result.steps.map((step) => step.span).filter(([start, end]) => end > start); // a turn may have no text
  const rollout = { question, response: text, steps };
  if (result.observations?.length) rollout.observations = result.observations.map(({ span }) => span);
  return { service: new Service(), rollout, options: { reward: { scheme: "process_only" } } };
}

function shown({ messages, opening, prompt_tokens: tokens, sampling, seeds, windows, ...more }, exact) {
  if (!messages.length) return [h("p", {}, "This judge reads no prompt: it checks the equations in the steps.")];
  const facts = [
    more.profile ? `judge profile ${more.profile}` : null,
    tokens === null ? "tokens: only the server knows" : `${number(tokens)} tokens`,
    `temperature ${sampling.temperature}`, `top p ${sampling.top_p}`, `at most ${number(sampling.max_tokens)} tokens per critique`,
    more.thinking_tokens ? `thinking budget ${number(more.thinking_tokens)} tokens` : "no thinking",
    windows > 1 ? `window 0 of ${windows}` : null,
    seeds ? `seeds ${seeds.join(", ")}` : "no seed",
  ].filter(Boolean);
  return [
    h("ul", { class: "facts" }, facts.map((fact) => h("li", {}, fact))),
    exact ? null : h("p", { class: "note" }, "This result was not requested here: the prompt is the one that this service would send with its default options, without a reference."),
    h("p", {}, "The code in the heads (or tags) of steps here is a stand-in of the same form. The real one may be another, so that this page does not show what a rollout could use."),
    messages.map(({ role, content }) => block(role, content)),
    thought(more),
    opening ? block("assistant (start of each critique)", opening) : null,
  ].flat().filter(Boolean);
}

/** What opens and closes the judge's thought. */
function thought({ thinking_tokens: budget, thinking_opening: opening, thinking_closing: closing }) {
  if (!budget) return null;
  if (!opening && !closing) return h("p", {}, "The judge's server separates the thought from the critique.");
  const text = `${opening ?? ""}(thought, at most ${number(budget)} tokens)${closing ?? ""}(critique)`;
  return block("assistant (thought and critique)", text);
}

function block(title, text) {
  return h("section", { "aria-label": title }, h("h4", {}, title), h("pre", { tabindex: 0 }, text));
}
