// What the page says about votes, and tokens where no tokenizer is served.

/** "1 critique", "2 critiques". */
export const many = (count, name) => `${count} ${name}${count === 1 ? "" : "s"}`;

/** "83%". */
export const percent = (share) => `${Math.round(100 * share)}%`;

/**
 * The votes against a step: "8 of 8 judge votes + arithmetic (weight 4)".
 *
 * @param {{votes: {wrong: number, valid: number, arithmetic?: number, share?: number}}} step;
 *   `arithmetic` is contained in the others, `share` is that of exact votes
 */
export function votesInWords({ votes }) {
  if (votes.share != null) return `${percent(votes.share)} of exact votes`;
  const checker = votes.arithmetic || 0;
  const [wrong, valid] = [votes.wrong - checker, votes.valid - checker];
  const judge = valid ? `${wrong} of ${valid} judge ${valid === 1 ? "vote" : "votes"}` : "no judge vote";
  return checker ? `${judge} + arithmetic (weight ${checker})` : judge;
}

/** Spans of words, each with the white space before it, in code points; they cover the text. */
export function wordOffsets(text) {
  const spans = [];
  let at = 0;
  for (const [word] of text.matchAll(/\s*\S+(?:\s+$)?/g)) {
    const end = at + Array.from(word).length;
    spans.push([at, end]);
    at = end;
  }
  return spans;
}
