// The vote and the rewards, computed as in the service (CAPO, section 3.3 and eq. 1), so that they
// can be changed here without judging again. tests/ui compare both.

import { criteriaAmounts, criteriaByStep } from "./criteria.js";

/** Wrong and valid votes per step, of the judge's first k critiques and of the arithmetic checker. */
export function countVotes(critiques, steps, k = Infinity) {
  const wrong = new Array(steps).fill(0);
  let judges = 0;
  let seen = 0;
  for (const critique of critiques) {
    if (critique.critic === "symbolic") continue;
    if (seen++ >= k || !critique.valid) continue;
    judges += 1;
    for (const step of critique.wrong_steps) wrong[step] += 1;
  }
  const arithmetic = arithmeticVotes(critiques, steps);
  const valid = arithmetic.map((votes) => judges + votes);
  return { wrong: wrong.map((votes, step) => votes + arithmetic[step]), valid, judges, arithmetic };
}

/** Votes of the arithmetic checker against each step. */
export function arithmeticVotes(critiques, steps) {
  const votes = new Array(steps).fill(0);
  for (const critique of critiques) {
    if (critique.critic !== "symbolic") continue;
    for (const step of critique.wrong_steps) votes[step] += critique.weight;
  }
  return votes;
}

/** A result as the service gave it, in the form of `revote`. */
export function asJudged(result) {
  const arithmetic = arithmeticVotes(result.critiques || [], result.steps.length);
  const steps = result.steps.map((step, i) => ({ ...step, votes: { ...step.votes, arithmetic: arithmetic[i] } }));
  const amounts = (result.criteria || []).map((criterion) => criterion.reward);
  return { steps, judges: 1, rewards: steps.map((step) => step.reward), amounts: amounts.some(Boolean) ? amounts : null };
}

export function penalty(method, wrong, valid) {
  if (method === "average") return wrong / valid;
  const needed = method === "union" ? 1 : method === "majority" ? Math.max(1, valid / 2) : valid;
  return wrong >= needed ? 1 : 0;
}

/** Rewards of steps; null if the scheme needs an outcome and there is none, or criteria and there are none. */
export function stepRewards(scheme, penalties, outcome, whole, process, added = null) {
  if (scheme === "process_only") return penalties.map((p) => 0 - p * process);
  if (scheme === "criteria") return added && penalties.map((p, i) => (outcome ?? 0) * whole - p * process + added[i]);
  if (outcome === null || outcome === undefined) return null;
  let lost = penalties;
  if (scheme === "first_error") {
    let worst = -Infinity;
    lost = penalties.map((p) => (worst = Math.max(worst, p)));
  }
  if (scheme === "flawed_positive") lost = penalties.map(() => outcome * Math.max(...penalties));
  return lost.map((p) => outcome * whole - p * process);
}

/**
 * A result with another vote: {steps, judges, rewards, scheme, amounts, inWindows}; rewards is null
 * without an outcome, amounts (of criteria) unless the scheme has them.
 *
 * What was judged in windows, each with a vote of its own, or by exact votes, keeps the votes and
 * penalties of the service, and so do criteria: only scheme and weights are applied here.
 */
export function revote(result, { method, k, scheme, w_whole, w_process, w_criteria = 1 }) {
  const count = result.steps.length;
  const { wrong, valid, judges, arithmetic, penalties: given } = result.windows > 1 || result.exact ? asVoted(result) : countVotes(result.critiques || [], count, method === "greedy" ? 1 : k);
  if (!judges) return { ...asJudged(result), judges, rewards: null };
  let penalties = given ?? wrong.map((votes, step) => penalty(method, votes, valid[step]));
  const suspicions = result.suspicion || [];
  const barred = (step) => suspicions.some((each) => each.action === "wrong" && (!each.steps || each.steps.includes(step)));
  for (const each of suspicions) {
    if (each.action !== "wrong") continue;
    penalties = penalties.map((p, i) => (!each.steps || each.steps.includes(i) ? 1 : p));
  }
  const added = result.criteria?.length ? criteriaByStep(result.criteria, w_criteria, count, barred) : null;
  let rewards = stepRewards(scheme, penalties, result.outcome?.value, w_whole, w_process, added);
  for (const each of suspicions) {
    if (rewards && each.action === "cap" && each.steps) rewards = capped(rewards, each.steps);
  }
  const steps = result.steps.map((step, i) => ({
    ...step,
    penalty: penalties[i],
    wrong: penalties[i] >= 0.5,
    votes: { wrong: wrong[i], valid: valid[i], asked: step.votes.asked, arithmetic: arithmetic[i], ...share(step) },
    reward: rewards ? rewards[i] : null,
  }));
  const amounts = scheme === "criteria" && added ? criteriaAmounts(result.criteria, w_criteria) : null;
  return { steps, judges, rewards, scheme, amounts, inWindows: result.windows > 1 };
}

/** The share of exact votes, if the step has one. */
const share = ({ votes }) => (votes.share == null ? {} : { share: votes.share });

/** The votes of the service, in the form of `countVotes`. */
function asVoted(result) {
  const votes = result.steps.map((step) => step.votes);
  return {
    wrong: votes.map((each) => each.wrong), valid: votes.map((each) => each.valid), judges: 1,
    arithmetic: arithmeticVotes(result.critiques || [], votes.length), penalties: result.steps.map((step) => step.penalty),
  };
}

function capped(rewards, steps) {
  const others = rewards.filter((_, i) => !steps.includes(i));
  if (!others.length) return rewards;
  const cap = Math.min(...others);
  return rewards.map((r, i) => (steps.includes(i) ? Math.min(r, cap) : r));
}
