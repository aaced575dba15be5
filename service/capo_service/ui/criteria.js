// The criteria of a rollout: the vote on each, and what they add to the rewards of steps.
import { h, number, signed } from "./dom.js";

const SIGNS = { pitfall: -1, bonus: 1, requirement: 1 };

/** What each criterion adds: its share of the weights of all that were judged, as in the service. */
export function criteriaAmounts(criteria, weight) {
  const judged = criteria.filter((criterion) => criterion.label !== null);
  const total = judged.reduce((sum, criterion) => sum + criterion.weight, 0);
  return criteria.map((criterion) => (criterion.label === null ? 0 : SIGNS[criterion.kind] * weight * (criterion.weight / total) * criterion.share));
}

/** What the criteria add to the reward of each step; nothing positive where `barred`. */
export function criteriaByStep(criteria, weight, steps, barred) {
  const added = new Array(steps).fill(0);
  const amounts = criteriaAmounts(criteria, weight);
  criteria.forEach(({ step }, i) => {
    for (let at = step ?? 0; at <= (step ?? steps - 1); at++) if (amounts[i] <= 0 || !barred(at)) added[at] += amounts[i];
  });
  return added;
}

/**
 * A table of the criteria; null if the rollout has none.
 *
 * @param {object} result
 * @param {string} title of the rollout
 * @param {number[] | null} amounts what each adds to rewards; null where the scheme does not use them
 */
export function criteriaTable({ criteria }, title, amounts) {
  if (!criteria?.length) return null;
  const rows = criteria.map((criterion, i) =>
    h("tr", {},
      h("th", { scope: "row" }, criterion.id),
      h("td", {}, criterion.kind),
      ...verdict(criterion),
      h("td", {}, number(criterion.weight)),
      amounts ? h("td", {}, signed(amounts[i])) : null));
  const columns = ["criterion", "kind", "holds", "at", "votes", "weight", ...(amounts ? ["reward"] : [])];
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Criteria: ${title}` },
    h("table", { class: "list criteria" },
      h("caption", {}, "Criteria, as the service voted on them"),
      h("thead", {}, h("tr", {}, columns.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, rows)));
}

function verdict({ label, kind, holds, share, step, votes }) {
  if (label === null) return [h("td", {}, "not judged"), h("td", {}, "–"), h("td", {}, "left out (dropout)")];
  const color = holds ? (kind === "pitfall" ? "bad" : "good") : kind === "requirement" ? "bad" : null; // a bonus may fail
  const partly = share > 0 && share < 1 ? ` (${Math.round(share * 100)}%)` : "";
  return [
    h("td", { class: color }, `${holds ? "yes" : "no"}${partly}`),
    h("td", {}, share === 0 ? "–" : step === null ? "whole response" : `step ${step}`),
    h("td", {}, `${votes.holds} of ${votes.valid}`),
  ];
}

/** What one critique says of the criteria, for its summary; empty if nothing. */
export function criteriaInWords(critique) {
  const held = (critique.criteria || []).filter((answer) => answer.holds);
  if (!critique.criteria?.length) return "";
  if (!held.length) return "no criterion holds";
  return `holds: ${held.map(({ id, step }) => (step === null ? id : `${id} at step ${step}`)).join(", ")}`;
}
