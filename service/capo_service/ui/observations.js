// What the policy did not write, between the steps of a trajectory: folded where it is long, always as plain text.
import { h, number } from "./dom.js";
import { fillObservation } from "./step_text.js";

const [SHORT, FEW] = [400, 8]; // characters and lines of an observation that is not folded

/** The heading of a turn, as an item of the list of steps. */
export const turnHeading = (turn) => h("li", { class: "turn" }, h("h3", {}, `Turn ${turn}`));

/**
 * An observation, as an item of the list of steps.
 *
 * @param {{span: [number, number], left_out?: number, token_span?: [number, number] | null}} observation
 * @param entry the rollout, with `tokens`
 * @param {import("./dom.js").Text} text of the rollout
 * @param {HTMLElement} tip where a token is described
 */
export function observationView(observation, entry, text, tip) {
  const raw = text.slice(...observation.span);
  const size = observation.span[1] - observation.span[0];
  const open = size <= SHORT && raw.split("\n").length <= FEW;
  const body = h("div", { class: "observed-text", tabindex: 0, role: "region", "aria-label": inWords(observation, raw) });
  const fill = fillObservation(body, observation, entry, text, tip);
  const unfold = (event) => event.target.open && !body.hasChildNodes() && fill();
  if (open) fill();
  return h("li", { class: "observation" }, h("details", { open, ontoggle: unfold }, h("summary", {}, inWords(observation, raw)), body));
}

/** "Observation, 1,234 characters, 900 of them not shown to the judge" */
function inWords({ span, left_out: leftOut, token_span: tokens }, raw) {
  const count = tokens ? `, ${number(tokens[1] - tokens[0])} ${tokens[1] - tokens[0] === 1 ? "token" : "tokens"}` : "";
  if (!raw.trim()) return `White space, not the policy's${count}`;
  return `Observation, ${number(span[1] - span[0])} characters${count}${leftOut ? `, ${number(leftOut)} characters not shown to the judge` : ""}`;
}
