// Which rows of a table are shown, and in which order. No DOM, so that it can be tested alone.

/** The choices of the filter "Show". `right`: the final answer is right (outcome of at least 0.5). */
export const SHOWN = {
  all: ["all rollouts", () => true],
  right: ["right answer", (row) => isRight(row)],
  wrong: ["wrong answer", (row) => isWrong(row)],
  unknown: ["unknown outcome", (row) => row.outcome === null],
  lucky: ["right answer with a wrong step", (row) => isRight(row) && row.wrong > 0],
  unexplained: ["wrong answer without a wrong step", (row) => isWrong(row) && row.wrong === 0],
  waiting: ["not credited", (row) => row.state === "not credited"],
  failed: ["failed", (row) => row.state === "failed"],
};

export const NO_QUERY = { text: "", shown: "all", flag: "", agreement: "", run: "", key: "", step: "" };

const isRight = (row) => row.outcome !== null && row.outcome >= 0.5;
const isWrong = (row) => row.outcome !== null && row.outcome < 0.5;

/**
 * @param {import("./rows.js").Row[]} rows
 * @param {typeof NO_QUERY} query `flag`: a reason, or "any"; `agreement`: shown if below
 */
export function matching(rows, query) {
  const text = query.text.trim() ? new RegExp(query.text.trim().replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "iu") : null;
  const below = query.agreement === "" ? null : Number(query.agreement);
  const step = query.step === "" ? null : Number(query.step);
  const [, kind] = SHOWN[query.shown] || SHOWN.all;
  return rows.filter(
    (row) =>
      kind(row)
      && (!query.flag || (query.flag === "any" ? row.flags.length > 0 : row.flags.includes(query.flag)))
      && (below === null || (row.agreement !== null && row.agreement < below))
      && (!query.run || row.run === query.run)
      && (!query.key || row.key === query.key)
      && (step === null || row.step === step)
      && (!text || text.test(row.question) || text.test(row.response) || text.test(row.id)),
  );
}

const ORDER = {
  id: (row) => row.id,
  question: (row) => row.question,
  characters: (row) => row.response.length,
  flags: (row) => row.flags.length,
};

/** Sorted by a column; rows without a value come last in both directions. */
export function sorted(rows, column, descending) {
  if (!column) return rows;
  const value = ORDER[column] || ((row) => row[column]);
  const sign = descending ? -1 : 1;
  const compare = new Intl.Collator("en", { numeric: true }).compare;
  return rows
    .map((row) => [value(row), row])
    .sort(([a], [b]) => {
      const missing = (a === null || a === undefined) - (b === null || b === undefined);
      if (missing) return missing;
      return sign * (typeof a === "string" ? compare(a, b) : a - b);
    })
    .map(([, row]) => row);
}
