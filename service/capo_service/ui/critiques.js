// The judge's answers: why a step is flagged, the table of votes, and each critique as it was written.
import { criteriaInWords } from "./criteria.js";
import { h } from "./dom.js";
import { thoughtInWords, thoughtView } from "./thoughts.js";
import { many, votesInWords } from "./words.js";

const NO_ANALYSIS = "(verdict only)";
const MOST_STEPS = 60; // columns of the table of votes

/** Who flags a step, and with which words; null if nobody does. */
export function whyFlagged(step, critiques) {
  if (!step.votes.wrong) return null;
  const flagged = `Flagged by ${votesInWords(step)}`;
  const named = critiques.map((critique, i) => [critique, i]).filter(([critique]) => critique.valid && critique.wrong_steps.includes(step.index));
  if (!named.length) return h("p", { class: "beside" }, flagged);
  return h("details", { class: "beside" }, h("summary", {}, flagged), analyses(named, step.index));
}

/** The analyses of the critiques that flag a step; critiques without one are counted. */
function analyses(named, index) {
  const bare = named.filter(([critique]) => analysisOf(critique) === NO_ANALYSIS).length;
  const spoken = named.filter(([critique]) => analysisOf(critique) !== NO_ANALYSIS);
  return [
    spoken.map(([critique, i]) => {
      // The arithmetic checker's critique has a line per step.
      const lines = isChecker(critique) ? critique.text.split("\n").filter((line) => line.startsWith(`Step ${index}:`)) : [];
      return h("blockquote", {}, h("cite", {}, name(critique, i)), " ", lines.length ? lines.join("\n") : analysisOf(critique));
    }),
    bare ? h("blockquote", {}, h("cite", {}, many(bare, "critique")), ` ${NO_ANALYSIS}`) : null,
  ];
}

/** Table of votes: critiques by steps; null where it would be too wide. */
export function voteTable(steps, critiques, title) {
  if (!critiques.length || steps.length > MOST_STEPS) return null;
  const rows = critiques.map((critique, i) =>
    h("tr", { class: critique.valid ? "" : "invalid" },
      h("th", { scope: "row" }, name(critique, i)),
      steps.map((step) => {
        const word = voteOf(critique, step.index);
        return h("td", { class: word }, h("span", { class: "sr" }, word === "elsewhere" ? "in another window" : word));
      })),
  );
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Votes: ${title}` },
    h("table", { class: "matrix" },
      h("caption", {}, "Votes: critiques by steps"),
      h("thead", {}, h("tr", {}, h("td", { class: "corner" }), steps.map((step) => h("th", { scope: "col" }, step.index)))),
      h("tbody", {}, rows)));
}

function voteOf(critique, step) {
  const [first, end] = critique.judged_steps ?? [0, Infinity];
  if (step < first || step >= end) return "elsewhere";
  if (!critique.valid) return "unreadable";
  if (critique.wrong_steps.includes(step)) return "wrong";
  return isChecker(critique) ? "abstains" : "right";
}

/** Each critique as the judge wrote it, with its verdict, how it ended, and the thought before it. */
export function critiqueList(critiques, windows = 1) {
  return h("ol", { class: "critiques" }, critiques.map((critique, i) => {
    const window = windows > 1 && !isChecker(critique) ? windowInWords(critique) : "";
    return h("li", { class: critique.valid ? "" : "invalid" },
      h("details", {},
        h("summary", {}, [name(critique, i), window, verdict(critique), criteriaInWords(critique), ending(critique), thoughtInWords(critique)].filter(Boolean).join(" · ")),
        thoughtView(critique, name(critique, i)),
        h("pre", { tabindex: 0, "aria-label": `Raw text of ${name(critique, i)}` }, critique.text || "(empty)")));
  }));
}

/** "window 1 (steps 12 to 23)" */
function windowInWords({ window = 0, judged_steps: steps }) {
  return `window ${window}${steps ? ` (steps ${steps[0]} to ${steps[1] - 1})` : ""}`;
}

function verdict(critique) {
  if (!critique.valid) return `unreadable: ${critique.reason}`;
  return critique.wrong_steps.length ? `wrong steps: ${critique.wrong_steps.join(", ")}` : "no wrong steps";
}

const ENDINGS = { stop: "complete", length: "cut off at the token limit", abort: "stopped early", error: "failed" };

function ending({ finish_reason: reason, critic }) {
  return !reason || critic === "symbolic" ? "" : `${ENDINGS[reason] || "ended"} (finish reason ${reason})`;
}

const isChecker = (critique) => critique.critic === "symbolic";

function name(critique, i) {
  return isChecker(critique) ? "arithmetic" : `critique ${i + 1}`;
}

/** The analysis of a critique; its whole text if it is not JSON. */
function analysisOf(critique) {
  try {
    return JSON.parse(critique.text).analysis || NO_ANALYSIS;
  } catch {
    return critique.text || "(empty)";
  }
}
