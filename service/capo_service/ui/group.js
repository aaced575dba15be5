// A group: the rollouts of one question, with the advantages of CAPO, eq. 2. tests/ui compare them with the
// trainer's.
import { h, number, signed, Text } from "./dom.js";
import { many, wordOffsets } from "./words.js";

const EQUAL = 1e-6; // smaller differences are rounding errors

/**
 * Advantages of eq. 2: (reward - mean) / standard deviation, both over all tokens of all rollouts.
 *
 * @param {{reward: number, tokens: number}[][]} rollouts by rollout, its runs of tokens with one reward
 * @returns {{mean: number, deviation: number, tokens: number, advantages: number[][]}} all advantages are 0
 *   where all rewards are equal
 */
export function groupAdvantages(rollouts) {
  const runs = rollouts.flat();
  const tokens = runs.reduce((sum, run) => sum + run.tokens, 0);
  const over = (value) => (tokens ? runs.reduce((sum, run) => sum + (run.tokens ? value(run.reward) * run.tokens : 0), 0) / tokens : 0);
  const mean = over((reward) => reward);
  const deviation = Math.sqrt(over((reward) => (reward - mean) ** 2));
  const advantage = ({ reward }) => (deviation < EQUAL ? 0 : (reward - mean) / deviation);
  return { mean, deviation, tokens, advantages: rollouts.map((rollout) => rollout.map(advantage)) };
}

/** How many tokens each step has; without tokens, how many words. */
function lengths({ tokens, text }, steps) {
  const counted = steps.every((step) => step.token_span);
  const points = new Text(text);
  const by = counted && tokens?.by !== "words" ? "tokens" : "words";
  return { by, counts: steps.map((step) => (counted ? step.token_span[1] - step.token_span[0] : wordOffsets(points.slice(...step.span)).length)) };
}

/**
 * The statistics of a group, and its votes with an `advantage` for each step.
 *
 * @param entries rollouts of one question
 * @param votes of each, the result of `revote`
 * @returns {{view: HTMLElement, votes: object[], bounds: [number, number]} | null} null if a reward is unknown
 */
export function group(entries, votes) {
  if (votes.some((vote) => !vote.rewards)) return null;
  const sizes = entries.map((entry, i) => lengths(entry, votes[i].steps));
  const runs = votes.map((vote, i) => vote.steps.map((step, j) => ({ reward: step.reward, tokens: sizes[i].counts[j] })));
  const found = groupAdvantages(runs);
  const all = found.advantages.flat();
  return {
    view: statistics(entries, votes, runs, found, sizes.some(({ by }) => by === "words") ? "words" : "tokens"),
    votes: votes.map((vote, i) => ({ ...vote, steps: vote.steps.map((step, j) => ({ ...step, advantage: found.advantages[i][j] })) })),
    bounds: [Math.min(...all, 0), Math.max(...all, 0)],
  };
}

function statistics(entries, votes, runs, { mean, deviation, tokens, advantages }, unit) {
  const right = entries.filter((entry) => entry.result.outcome?.value >= 0.5).length;
  const known = entries.filter((entry) => entry.result.outcome).length;
  const facts = [many(entries.length, "rollout"), known ? `${right} of ${known} answers right` : "outcomes unknown", `${number(tokens)} ${unit}`,
    `mean reward ${signed(mean)}`, `standard deviation ${number(deviation)}`];
  const rows = entries.map((entry, i) => {
    const steps = runs[i].map((run, j) => ({ ...run, advantage: advantages[i][j] }));
    const count = steps.reduce((sum, step) => sum + step.tokens, 0);
    const average = (value) => (count ? steps.reduce((sum, step) => sum + value(step) * step.tokens, 0) / count : null);
    const wrong = votes[i].steps.filter((step) => step.wrong).length;
    return h("tr", {},
      h("th", { scope: "row" }, entry.title),
      h("td", {}, entry.result.outcome ? number(entry.result.outcome.value) : "unknown"),
      h("td", {}, `${wrong} of ${steps.length}`), h("td", {}, number(count)),
      h("td", {}, signed(average((step) => step.reward))), h("td", {}, signed(average((step) => step.advantage))),
      h("td", {}, percent(average((step) => Number(step.advantage > 0)))), h("td", {}, percent(average((step) => Number(step.advantage < 0)))));
  });
  return h("section", { class: "group", "aria-label": "Group" },
    h("h2", {}, "Group: advantages of its rollouts"),
    h("ul", { class: "facts" }, facts.map((fact) => h("li", {}, fact))),
    h("p", {}, `Advantage A = (reward − mean) / standard deviation, over all ${unit} of the group (CAPO, eq. 2). Training raises the probability of ${unit} with A > 0, and lowers it where A < 0.`,
      unit === "words" ? " Words stand for tokens here: choose a tokenizer for exact values." : ""),
    deviation < EQUAL ? h("p", { class: "note" }, "All rewards are equal, so all advantages are 0: this group does not change the policy.") : null,
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Rollouts of the group" },
      h("table", { class: "list" },
        h("thead", {}, h("tr", {}, ["rollout", "outcome", "wrong steps", unit, "mean reward", "mean advantage", `${unit} with A > 0`, `${unit} with A < 0`].map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, rows))));
}

const percent = (share) => (share === null ? "–" : `${Math.round(share * 100)}%`);
