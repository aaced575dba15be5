// What a person says about steps: kept in this tab, exported for `capo eval` and `canary_file`.
import { Text } from "./dom.js";

const KEPT = "capo-labels";
const labelled = new Map(); // key -> {id, question, steps, labels, judged, observations}
let stored = true;
let waiting = null;

/** The texts of the steps, without white space at their ends. */
export function stepTexts(text, steps) {
  const points = new Text(text);
  return steps.map((step) => bare(points.slice(...step.span)));
}

const bare = (text) => text.replace(/^[\r\n]+|\s+$/g, "");
const keyOf = ({ question, steps, observations }) => JSON.stringify(observations?.length ? [question, steps, observations] : [question, steps]);

/**
 * The labels of a rollout; changed by `set`.
 *
 * @param {string} id
 * @param {string} question
 * @param {string[]} steps texts
 * @param {(boolean | null)[]} judged whether the judge flags each step; null without a judge
 * @param {(string | null)[]} observations what others wrote after each step; empty if the policy wrote all of it
 * @returns {{labels: ("right" | "wrong" | null)[], set: (step: number, label: "right" | "wrong" | null) => void}}
 */
export function labelsOf(id, question, steps, judged, observations = []) {
  const key = keyOf({ question, steps, observations });
  const entry = labelled.get(key) ?? { id, question, steps, labels: steps.map(() => null), judged, observations };
  if (judged.some((each) => each !== null)) entry.judged = judged;
  return {
    labels: entry.labels,
    set(step, label) {
      entry.labels[step] = label;
      if (entry.labels.some(Boolean)) labelled.set(key, entry);
      else labelled.delete(key);
      keep();
    },
  };
}

/** How far the labels are, and how they agree with the judge. */
export function summary() {
  const counts = { rollouts: labelled.size, finished: 0, steps: 0, judged: 0, agree: 0, missed: 0, falseAlarms: 0, good: 0, bad: 0 };
  for (const { labels, judged } of labelled.values()) {
    if (!labels.includes(null)) {
      counts.finished += 1;
      counts[labels.includes("wrong") ? "bad" : "good"] += 1;
    }
    labels.forEach((label, i) => {
      if (!label) return;
      counts.steps += 1;
      if (judged[i] === null || judged[i] === undefined) return;
      counts.judged += 1;
      if (judged[i] === (label === "wrong")) counts.agree += 1;
      else counts[label === "wrong" ? "missed" : "falseAlarms"] += 1;
    });
  }
  return counts;
}

/** Whether the labels would survive a reload of the page. */
export const areStored = () => stored;

/**
 * Rollouts with a label on every step, as lines that `capo eval` and `canary_file` read: the fields
 * question, steps and wrong_steps, of a trajectory also observations, and no other.
 */
export function finishedLines() {
  const finished = [...labelled.values()].filter(({ labels, steps }) => !labels.includes(null) && steps.every((step) => step.trim()));
  return finished.map((entry) => JSON.stringify({ question: entry.question, steps: entry.steps, ...observed(entry), wrong_steps: entry.labels.flatMap((label, i) => (label === "wrong" ? [i] : [])) }));
}

const observed = ({ observations }) => (observations?.length ? { observations } : {});

/** All labels, undecided steps as null, to go on later. */
export function allLines() {
  return [...labelled.values()].map((entry) => JSON.stringify({ id: entry.id, question: entry.question, steps: entry.steps, ...observed(entry), labels: entry.labels, judged: entry.judged }));
}

/**
 * Take over the labels of an exported line, of either kind.
 *
 * @returns {boolean} whether the line holds labels
 */
export function importLabels(record) {
  const { question } = record;
  if (typeof question !== "string" || !record.steps.every((step) => typeof step === "string")) return false;
  const steps = record.steps.map(bare);
  const observations = readObservations(record);
  if (!observations) return false;
  const labels = Array.isArray(record.labels)
    ? steps.map((_, i) => (["right", "wrong"].includes(record.labels[i]) ? record.labels[i] : null))
    : steps.map((_, i) => (record.wrong_steps.includes(i) ? "wrong" : "right"));
  const judged = steps.map((_, i) => (typeof record.judged?.[i] === "boolean" ? record.judged[i] : null));
  const entry = { id: String(record.id ?? ""), question, steps, labels, judged, observations };
  labelled.set(keyOf(entry), entry);
  keep();
  return true;
}

/** The observations of a line; null if they do not fit its steps. */
function readObservations({ steps, observations: given = null }) {
  if (given === null) return [];
  if (!Array.isArray(given) || given.length !== steps.length || !given.every((each) => each === null || typeof each === "string")) return null;
  const observations = given.map((each) => each?.trim() || null);
  return observations.some(Boolean) ? observations : [];
}

export function clearLabels() {
  labelled.clear();
  keep();
}

function keep() {
  clearTimeout(waiting);
  waiting = setTimeout(store, 100); // a file of labels is one write
}

function store() {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify([...labelled.values()]));
    stored = true;
  } catch {
    stored = false; // the browser keeps about 5 MB
  }
}

function restore() {
  try {
    for (const entry of JSON.parse(sessionStorage.getItem(KEPT) || "[]")) labelled.set(keyOf(entry), entry);
  } catch {
    sessionStorage.removeItem(KEPT);
  }
}

restore();
addEventListener("pagehide", store);
