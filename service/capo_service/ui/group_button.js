// From a list to a group: all credited rollouts of one question, in Inspect, with their advantages.
import { h, number } from "./dom.js";
import { load } from "./rows.js";

const MOST = 64; // rollouts of a group that are shown

/**
 * A button that opens the group of a row in Inspect; hidden where the list has no other rollout of its question.
 *
 * @param {(entries: object[], vote: object) => void} inspect
 * @returns {{button: HTMLElement, offer: (rows: import("./rows.js").Row[], row: import("./rows.js").Row) => void}}
 */
export function groupButton(inspect) {
  const button = h("button", { type: "button", title: "Advantages of all rollouts of this question in the list" });
  function offer(rows, row) {
    // One training step is one group: the same question comes again in later steps.
    const same = rows.filter((each) => each.state === "credited" && each.question === row.question && each.step === row.step && each.run === row.run);
    button.hidden = same.length < 2;
    button.textContent = same.length > MOST ? `Group of ${number(same.length)} (first ${MOST})` : `Group of ${same.length}`;
    button.onclick = async () => {
      const loaded = await Promise.all(same.slice(0, MOST).map(load));
      const entries = loaded.map(({ text, tokens, result }, i) => ({ title: same[i].id, question: row.question, text, tokens, result, timing: null }));
      inspect(entries.filter((entry) => entry.result && entry.text), loaded[0].method ? { method: loaded[0].method } : {});
    };
  }
  return { button, offer };
}
