// Curves of one or several training runs: a line for each, smoothed, on a logarithmic axis, as CSV.
import { COLORS, lineChart } from "./charts.js";
import { download, h, number } from "./dom.js";

// [title, lines, axis]. A line is kind.field, or kind.field/field for a share; after | what to take
// if no record has it. Kind `rollouts`: computed from the rollouts of each step that were opened.
const CURVES = [
  ["Correct answers", ["train.accuracy|rollouts.accuracy", "evaluation.greedy_accuracy"], { unit: "%", floor: 0, ceiling: 1 }],
  ["Steps flagged as wrong", ["train.wrong_step_rate|train.capo_wrong_step_rate|rollouts.wrong_step_rate", "evaluation.greedy_wrong_step_rate"], { unit: "%", floor: 0 }],
  ["Correct answers with a wrong step", ["train.lucky_rate|rollouts.lucky_rate", "evaluation.greedy_lucky_rate"], { unit: "%", floor: 0 }],
  ["Mean reward", ["train.mean_reward|train.reward|rollouts.reward"], {}],
  ["Tokens per rollout", ["train.mean_tokens|rollouts.tokens", "evaluation.greedy_tokens"], { unit: "tokens", floor: 0 }],
  ["Agreement of critiques", ["train.agreement|train.capo_agreement|rollouts.agreement"], { unit: "%", ceiling: 1 }],
  ["Rollouts without credit (fallback)", ["train.uncredited/rollouts|train.capo_fallback|rollouts.fallback"], { unit: "%", floor: 0 }],
  ["Rollouts with a reward-hacking flag", ["train.suspicious|train.capo_suspicious|rollouts.suspicious"], { unit: "%", floor: 0 }],
  ["Judge tokens", ["train.judge_completion_tokens", "train.judge_prompt_tokens"], { unit: "tokens", floor: 0 }],
  ["Loss", ["train.loss"], {}],
  ["Seconds per training step", ["train.step_seconds", "train.wait_seconds"], { unit: "s", floor: 0 }],
];
const NAMES = {
  judge_completion_tokens: "completion tokens", judge_prompt_tokens: "prompt tokens", step_seconds: "whole step", wait_seconds: "waiting for credit",
};
const mean = (values) => (values.length ? values.reduce((a, b) => a + b, 0) / values.length : null);

/** Records of kind `rollouts`: what the opened rollouts say about each training step. */
export function fromRollouts(rows) {
  const steps = new Map();
  for (const row of rows) {
    if (row.step === null) continue;
    if (!steps.has(row.step)) steps.set(row.step, []);
    steps.get(row.step).push(row);
  }
  return [...steps].sort(([a], [b]) => a - b).map(([step, all]) => {
    const credited = all.filter((row) => row.state === "credited");
    const known = (field, of = all) => of.map((row) => row[field]).filter((value) => value !== null);
    const share = (part, of) => (of.length ? part.length / of.length : null);
    const right = credited.filter((row) => row.outcome >= 0.5);
    const count = credited.reduce((total, row) => total + row.steps, 0);
    return {
      kind: "rollouts", step, accuracy: mean(known("outcome")), reward: mean(known("reward")), tokens: mean(known("tokens")),
      agreement: mean(known("agreement", credited)), fallback: credited.length ? 1 - credited.length / all.length : null,
      suspicious: share(credited.filter((row) => row.flags.length), credited), lucky_rate: share(right.filter((row) => row.wrong), credited),
      wrong_step_rate: count ? credited.reduce((total, row) => total + row.wrong, 0) / count : null,
    };
  });
}

/** The points of a line: [step, value]. */
export function pointsOf(records, line) {
  for (const choice of line.split("|")) {
    const [kind, ...rest] = choice.split(".");
    const [field, divisor] = rest.join(".").split(/\/(?=rollouts$)/); // other names may contain a slash
    const points = records
      .filter((record) => record.kind === kind && typeof record[field] === "number" && (!divisor || record[divisor] > 0))
      .map((record) => [record.step, divisor ? record[field] / record[divisor] : record[field]]);
    if (points.length) return { kind, field, points: points.sort(([a], [b]) => a - b) };
  }
  return null;
}

/** Exponential moving average, corrected for its start, as in TensorBoard. */
export function smooth(points, weight) {
  let [last, total] = [0, 0];
  return points.map(([x, y]) => {
    last = last * weight + (1 - weight) * y;
    total = total * weight + (1 - weight);
    return [x, last / total];
  });
}

/** The numbers of all runs as a table: run, kind, step, and a column for each field. */
export function csv(runs) {
  const fields = [...new Set(runs.flatMap(({ records }) => records.flatMap((record) => Object.keys(record).filter((name) => typeof record[name] === "number" && name !== "step"))))];
  // A name that begins like a formula must not be one in a spreadsheet.
  const cell = (value) => (value === null || value === undefined ? "" : typeof value === "number" ? String(value) : `"${String(value).replace(/^([=+\-@])/, "'$1").replaceAll('"', '""')}"`);
  const lines = runs.flatMap(({ name, records }) => records.map((record) => [name, record.kind, record.step, ...fields.map((field) => (typeof record[field] === "number" ? record[field] : null))]));
  return [["run", "kind", "step", ...fields], ...lines].map((line) => `${line.map(cell).join(",")}\r\n`).join("");
}

/**
 * Charts in an element.
 *
 * @returns {{show: (runs: {name: string, records: object[], rename: (name: string) => void}[]) => void}}
 */
export function runCharts(root) {
  let runs = [];
  const hidden = new Set();
  const added = new Set();
  const weight = h("input", { type: "range", min: 0, max: 0.98, step: 0.02, value: 0, id: "run-smoothing", oninput: () => draw() });
  const told = h("output", { for: "run-smoothing" });
  const log = h("input", { type: "checkbox", onchange: () => draw() });
  const more = h("select", { onchange: (event) => (added.add(event.target.value), draw()) });
  const save = h("button", { type: "button", onclick: () => download("runs.csv", new Blob([csv(shownRuns())], { type: "text/csv" })) }, "CSV");
  const list = h("ul", { class: "runs", "aria-label": "Runs" });
  const charts = h("div", { class: "charts" });
  root.replaceChildren(list, h("div", { class: "settings" }, h("label", {}, "Smoothing ", told, weight), h("label", { class: "check" }, log, " logarithmic axis"), h("label", {}, "Add a curve", more), save), charts);

  const shownRuns = () => runs.filter(({ name }) => !hidden.has(name));

  function item(run, i) {
    const name = h("input", { type: "text", value: run.name, "aria-label": `Name of run ${run.name}`, onchange: (event) => event.target.value.trim() && run.rename(event.target.value.trim()) });
    const toggle = (event) => (event.target.checked ? hidden.delete(run.name) : hidden.add(run.name), draw());
    const box = h("input", { type: "checkbox", checked: !hidden.has(run.name), "aria-label": `Show run ${run.name}`, onchange: toggle });
    return h("li", { class: runs.length > 1 ? `series-${i % COLORS}` : null }, box, h("span", { class: "swatch", "aria-hidden": "true" }, "■"), name);
  }

  function draw() {
    const smoothing = Number(weight.value);
    told.textContent = smoothing ? number(smoothing) : "off";
    const curves = [...CURVES, ...[...added].map((line) => [line.replace(/^train\./, "").replaceAll("_", " "), [line], {}])];
    const drawn = curves.map((curve) => chart(curve, smoothing)).filter(Boolean);
    charts.replaceChildren(...drawn);
    if (!drawn.length) charts.append(h("p", {}, "No curve: no run is chosen, or the files have no numbers by step."));
  }

  function chart([title, lines, axis], smoothing) {
    const found = shownRuns().flatMap((run) => lines.map((line, i) => ({ run, line: i, ...pointsOf(run.records, line) })).filter(({ points }) => points));
    if (!found.length) return null;
    const several = new Set(found.map(({ run }) => run)).size > 1 || runs.length > 1;
    const kinds = new Set(found.map(({ line }) => line)).size;
    const series = found.map(({ run, line, kind, field, points }) => {
      const what = NAMES[field] || (kind === "rollouts" ? "opened rollouts" : kind);
      const smoothed = smoothing > 0 && kind !== "evaluation" && points.length > 2; // evaluations are few
      return {
        name: several ? (kinds > 1 ? `${run.name}, ${what}` : run.name) : what,
        points: smoothed ? smooth(points, smoothing) : points,
        raw: smoothed ? points : [],
        color: several ? runs.indexOf(run) : line,
        dashed: several && line > 0,
      };
    });
    return lineChart({ title, series, ...axis, log: log.checked, xLabel: (x) => number(x, 0), xName: "training step" });
  }

  return {
    show(given) {
      runs = given;
      list.replaceChildren(...runs.map(item));
      const known = new Set(CURVES.flatMap(([, lines]) => lines.flatMap((line) => line.split("|").map((each) => each.split("/")[0]))));
      const fields = new Set(runs.flatMap(({ records }) => records.flatMap((record) => Object.keys(record).filter((name) => typeof record[name] === "number" && name !== "step").map((name) => `${record.kind}.${name}`))));
      const rest = [...fields].filter((line) => !known.has(line) && !line.startsWith("rollouts.")).sort();
      more.replaceChildren(h("option", { value: "" }, "choose"), ...rest.map((line) => h("option", { value: line }, line.replace(".", ": ").replaceAll("_", " "))));
      more.parentElement.hidden = !rest.length;
      root.hidden = !runs.length;
      draw();
    },
  };
}
