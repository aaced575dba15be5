// One rollout of a table, opened: the view of Inspect, the neighbours in the table, and labels of steps.
import { range } from "./charts.js";
import { h, number, Text } from "./dom.js";
import { bind } from "./keys.js";
import { groupButton } from "./group_button.js";
import { areStored, labelsOf, stepTexts, summary } from "./labels.js";
import { load } from "./rows.js";
import { observationView, turnHeading } from "./observations.js";
import { renderRollout } from "./rollout.js";
import { inOrder, observationsAfter } from "./trajectory.js";
import { many } from "./words.js";

const NEXT = { null: "wrong", wrong: "right", right: null }; // what a click makes of a label
const KEYS = { w: "wrong", r: "right", u: null };
const MOST = 200_000; // characters of a text that is shown

let labelling = false; // the mode stays on from one rollout to the next

bind("w r u", "label the focused step wrong, right or undecided (in an opened rollout of a list)", null);
bind("Esc", "back to the list of rollouts", null);

/**
 * Show a row of a list in an element.
 *
 * @param {HTMLElement} root
 * @param {object} options
 * @param {import("./rows.js").Row[]} options.rows the list, in its order
 * @param {number} options.index of the row
 * @param {() => void} options.back leaves
 * @param {(index: number) => void} options.moved called when another row is shown
 * @param {(entry: object, vote: object) => void} options.inspect shows it in the Inspect view
 * @param {(row: import("./rows.js").Row) => string | null} options.link a permanent link
 * @returns {{back: () => void}}
 */
export function openRollout(root, { rows, index, back, moved, inspect, link }) {
  const place = h("span", { role: "status" });
  const previous = h("button", { type: "button", title: "key p", onclick: () => go(-1) }, "Previous");
  const next = h("button", { type: "button", title: "key n", onclick: () => go(1) }, "Next");
  const toInspect = h("button", { type: "button" }, "Open in Inspect");
  const toGroup = groupButton(inspect);
  const anchor = h("a", {}, "Permanent link");
  const box = h("input", { type: "checkbox", checked: labelling, onchange: (event) => ((labelling = event.target.checked), present()) });
  const rest = h("button", { type: "button", title: "the steps without a label" }, "Label the rest right");
  const said = h("p", { role: "status", class: "labels-said" });
  const view = h("div", { class: "opened", tabindex: -1 });
  root.replaceChildren(
    h("div", { class: "settings bar" },
      h("button", { type: "button", onclick: back }, "Back to the list"), previous, next, place, toInspect, toGroup.button, anchor,
      h("label", { class: "check" }, box, " label steps"), rest),
    said,
    view,
  );
  root.onkeydown = keys;
  let current = 0; // a row that loads slowly must not replace a later one
  let present = () => {}; // draws the row that has been read: at once, or a key pressed meanwhile would be lost
  draw();

  function go(by) {
    const to = index + by;
    if (to < 0 || to >= rows.length) return;
    index = to;
    moved(index);
    draw();
  }

  function keys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input:not([type=checkbox]), select, textarea")) return;
    const act = { n: () => go(1), p: () => go(-1), Escape: back }[event.key];
    if (!act) return;
    event.preventDefault();
    event.stopPropagation(); // the page has its own n and p
    act();
  }

  async function draw() {
    const mine = ++current;
    const row = rows[index];
    present = () => {};
    place.textContent = `${number(index + 1)} of ${number(rows.length)}`;
    previous.disabled = index === 0;
    next.disabled = index === rows.length - 1;
    let loaded;
    try {
      loaded = await load(row);
    } catch (error) {
      if (mine !== current) return;
      view.replaceChildren(h("p", { class: "note" }, `The rollout cannot be read again: ${error.message}. Was the file changed? Open it again.`));
      view.focus();
      return;
    }
    if (mine !== current) return;
    const href = link(row);
    anchor.hidden = !href;
    if (href) anchor.href = href;
    toInspect.hidden = !loaded.result;
    toGroup.offer(rows, row);
    toInspect.onclick = () => inspect({ title: row.id, question: row.question, text: loaded.text, tokens: loaded.tokens, result: loaded.result, timing: null }, loaded.method ? { method: loaded.method } : {});
    present = () => {
      try {
        show(row, loaded);
      } catch (error) {
        view.replaceChildren(h("p", { class: "note" }, `The rollout cannot be shown: a field has another type than expected (${error.message}).`));
      }
      (view.querySelector(".rollout") ?? view).focus({ preventScroll: true }); // keys act on what has the focus
    };
    present();
  }

  function show(row, { text, tokens, result, steps: known, observations, tokenRewards, sent }) {
    const steps = result ? result.steps : known ?? cutAtBlankLines(text);
    const asked = h("details", { class: "question", open: true }, h("summary", {}, "Question"), h("pre", { tabindex: 0 }, cut(row.question)));
    const holder = h("div", {});
    const { question, observations: after } = observationsAfter(row.question, text, steps, observations);
    const labels = labelsOf(row.id, question, stepTexts(text, steps), steps.map((step) => step.wrong ?? null), after);
    const onStep = labelling ? (i) => getSelection().isCollapsed && label(i, NEXT[labels.labels[i]]) : null;
    const options = { onStep, labels: labels.labels };
    const { setLabel } = !text
      ? missing(holder, row)
      : result
        ? renderRollout(holder, { rollout: { title: row.id, question: row.question, text, tokens }, result, ...options })
        : plainRollout(holder, row, text, { steps, observations }, tokenRewards, options);
    function label(i, value) {
      labels.set(i, value);
      setLabel(i, value);
      tell(`Step ${i}: ${value ?? "undecided"}. `);
    }
    holder.onkeydown = (event) => {
      const step = event.target.closest(".step")?.dataset.step;
      if (!labelling || step === undefined || !(event.key in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.stopPropagation();
      label(Number(step), KEYS[event.key]);
    };
    rest.hidden = !labelling || !text;
    rest.onclick = () => labels.labels.forEach((value, i) => value || label(i, "right"));
    const reference = row.reference ? h("p", { class: "reference" }, `Reference answer: ${cut(row.reference)}`) : null;
    view.replaceChildren(...[asked, toolList(sent.tools), reference, row.error ? h("p", { class: "note" }, `Not credited: ${row.error}`) : null, holder].filter(Boolean));
    tell("");
  }

  function tell(what) {
    if (!labelling) {
      said.textContent = "";
      return;
    }
    const { steps, rollouts, judged, agree } = summary();
    const share = judged ? ` The judge agrees with ${agree} of ${judged} labels.` : "";
    const how = steps ? `${many(steps, "label")} on ${many(rollouts, "rollout")}.${share}` : "Click a step, or focus it and press w (wrong), r (right) or u (undecided).";
    said.textContent = `${what}${how}${areStored() ? "" : " The browser cannot store more labels: export them."}`;
  }

  return { back };
}

const cut = (text) => (text.length > MOST ? `${text.slice(0, MOST)}… (${number(text.length)} characters)` : text);

/** The tools that the policy could call, folded; null without tools. */
function toolList(tools) {
  if (!Array.isArray(tools) || !tools.length) return null;
  return h("details", { class: "question" }, h("summary", {}, `Tools of the policy (${number(tools.length)})`), h("pre", { tabindex: 0 }, cut(tools.map((tool) => JSON.stringify(tool)).join("\n"))));
}

/** Steps of a rollout that was not judged: cut at blank lines, as the service does by default. */
export function cutAtBlankLines(text) {
  const steps = [];
  let at = 0;
  for (const [part] of text.matchAll(/[^]+?(?:\r?\n[ \t]*\r?\n\s*|$)/g)) {
    const end = at + Array.from(part).length;
    if (part.trim()) steps.push({ index: steps.length, span: [at, end] });
    else if (steps.length) steps.at(-1).span[1] = end;
    at = end;
  }
  return steps;
}

function missing(root) {
  root.replaceChildren(h("p", { class: "note" }, "The result does not contain the rollout's text. Open the input file of `capo credit` too: results and texts are joined by line and id."));
  return { setLabel: () => {} };
}

/** A rollout that was not judged. */
function plainRollout(root, row, text, { steps, observations }, tokenRewards, { onStep, labels }) {
  const facts = [
    row.outcome === null ? "outcome unknown" : `outcome ${number(row.outcome)}`,
    row.reward === null ? null : `reward ${number(row.reward, 4)}`,
    tokenRewards ? `${number(tokenRewards.length)} token rewards, ${range(tokenRewards).map((each) => number(each, 4)).join(" to ")}` : null,
    `${many(steps.length, "step")}${row.isLabels ? "" : observations ? " (one a turn)" : " (cut at blank lines)"}`,
    row.state === "failed" ? "failed" : "not credited",
  ].filter(Boolean);
  const texts = stepTexts(text, steps);
  const items = steps.map((step, i) =>
    h("li", { class: `step plain${onStep ? " clickable" : ""}`, tabindex: 0, "data-step": i, "aria-label": `Step ${i}` },
      h("div", { class: "gutter" }, h("span", { class: "index" }, i)), h("div", {}, h("p", { class: "step-text" }, cut(texts[i])))));
  const setLabel = (i, value) => {
    items[i].querySelector(".label")?.remove();
    if (value) items[i].dataset.label = value;
    else delete items[i].dataset.label;
    if (value) items[i].querySelector(".gutter").append(h("span", { class: "label" }, `label: ${value}`));
  };
  items.forEach((item, i) => {
    setLabel(i, labels[i]);
    if (!onStep) return;
    item.addEventListener("click", () => onStep(i));
    item.addEventListener("keydown", (event) => event.key === "Enter" && onStep(i));
  });
  const points = new Text(text);
  const list = inOrder(steps, observations, null).map(({ step, observation, turn }) =>
    step ? items[step.index] : observation ? observationView(observation, { tokens: null }, points, null) : turnHeading(turn));
  root.replaceChildren(
    h("section", { class: "rollout", "aria-label": row.id, tabindex: -1 },
      h("header", {}, h("h2", {}, row.id.slice(0, 200)), h("ul", { class: "facts" }, facts.map((fact) => h("li", {}, fact)))),
      h("ol", { class: "steps", start: 0 }, list)));
  return { setLabel };
}
