// The training view: curves and rollouts from the files of a training run, read in the browser.
import { lineChart } from "./charts.js";
import { h, number } from "./dom.js";
import { rolloutView } from "./rollout.js";
import { revote } from "./votes.js";

const CURVES = [
  ["Correct answers", ["train.accuracy", "evaluation.greedy_accuracy"], { floor: 0, ceiling: 1 }],
  ["Steps flagged as wrong", ["train.wrong_step_rate", "evaluation.greedy_wrong_step_rate"], { floor: 0, ceiling: 1 }],
  ["Correct answers with a wrong step", ["train.lucky_rate", "evaluation.greedy_lucky_rate"], { floor: 0 }],
  ["Tokens per rollout", ["train.mean_tokens"], { floor: 0 }],
  ["Mean reward", ["train.mean_reward"], {}],
  ["Loss", ["train.loss"], {}],
  ["Seconds per training step", ["train.step_seconds", "train.wait_seconds"], { floor: 0 }],
];

export function start(root) {
  const status = h("p", { role: "status" });
  const charts = h("div", { class: "charts" });
  const browser = h("div", {});
  const input = h("input", { type: "file", multiple: true, accept: ".jsonl,application/x-ndjson", id: "run-files" });
  const drop = h("div", { class: "drop" }, h("label", { for: "run-files" }, "Choose or drop the files metrics.jsonl and rollouts.jsonl of a run. They are not uploaded."), input);
  root.replaceChildren(h("h2", {}, "Training"), drop, status, charts, browser);
  input.addEventListener("change", () => open([...input.files]));
  for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", over);
      if (name === "drop") open([...event.dataTransfer.files]);
    });
  }

  async function open(files) {
    const records = [];
    const rollouts = [];
    let unknown = 0;
    for (const file of files) {
      for (const line of (await file.text()).split("\n")) {
        if (!line.trim()) continue;
        try {
          const record = JSON.parse(line);
          if (record.credit !== undefined) rollouts.push(record);
          else if (record.kind && record.step !== undefined) records.push(record);
          else unknown += 1;
        } catch {
          unknown += 1; // a killed run ends in the middle of a line
        }
      }
    }
    const steps = new Set(records.filter((each) => each.kind === "train").map((each) => each.step));
    status.textContent = `${steps.size} steps, ${rollouts.length} rollouts${unknown ? `, ${unknown} lines not recognized` : ""}`;
    charts.replaceChildren(...CURVES.map((curve) => chart(records, curve)).filter(Boolean));
    browse(browser, rollouts);
  }
}

function chart(records, [title, names, axis]) {
  const series = names
    .map((name) => {
      const [kind, field] = name.split(".");
      const points = records.filter((r) => r.kind === kind && typeof r[field] === "number").map((r) => [r.step, r[field]]);
      return { name: kind === "train" && names.length > 1 && names[1].startsWith("train") ? field.replaceAll("_", " ") : kind, points };
    })
    .filter((each) => each.points.length);
  return series.length ? lineChart({ title, series, xLabel: (x) => `step ${number(x, 0)}`, ...axis }) : null;
}

function browse(root, rollouts) {
  if (!rollouts.length) {
    root.replaceChildren(h("p", {}, "No rollouts. Set logging.rollouts in the recipe to write some of each training step to rollouts.jsonl."));
    return;
  }
  const steps = [...new Set(rollouts.map((each) => each.step))].sort((a, b) => a - b);
  const slider = h("input", { type: "range", min: 0, max: steps.length - 1, value: 0, id: "run-step", "aria-label": "Training step" });
  const summary = h("output", { for: "run-step" });
  const shown = h("div", { class: "rollouts" });
  const draw = () => {
    const step = steps[slider.value];
    const here = rollouts.filter((each) => each.step === step);
    const all = here.flatMap((each) => each.credit?.steps || []);
    const wrong = all.filter((each) => each.wrong).length;
    summary.textContent = `step ${step}: ${here.length} rollouts, ${wrong} of ${all.length} steps wrong`;
    slider.setAttribute("aria-valuetext", summary.textContent);
    shown.replaceChildren(...here.map(view));
  };
  slider.addEventListener("input", draw);
  root.replaceChildren(h("h3", {}, "Rollouts by step"), h("div", { class: "settings" }, h("label", {}, "Step", slider), summary), shown);
  draw();
}

function view(record, i) {
  const title = `${i + 1}. ${record.question.slice(0, 160)}`;
  if (!record.credit) return h("section", { class: "rollout" }, h("h2", {}, title), h("p", {}, record.response), h("p", { class: "note" }, "Not credited."));
  const entry = { question: record.question, text: record.response, tokens: record.token_offsets ? record : null, result: record.credit, timing: null };
  const vote = { method: record.method, k: Infinity, scheme: "capo", w_whole: record.w_whole, w_process: record.w_process };
  const voted = record.credit.critiques?.length ? revote(record.credit, vote) : { steps: record.credit.steps, judges: 1, rewards: record.credit.steps.map((s) => s.reward) };
  return rolloutView(entry, voted, [-record.w_process, record.w_whole], title);
}
