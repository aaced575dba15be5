// The training view: curves of runs, and the rollouts of each training step, from their files.
import { h, number } from "./dom.js";
import { dropZone } from "./drop.js";
import { fileList } from "./filelist.js";
import { allRows, files, listen, open, rename, runs } from "./opened.js";
import { fromRollouts, runCharts } from "./runs.js";
import { rolloutTable } from "./table.js";

/**
 * @param {HTMLElement} root
 * @param {(entry: object, vote: object) => void} inspect shows a rollout in the Inspect view
 */
export function start(root, inspect) {
  const status = h("p", { role: "status" });
  const list = h("section", { class: "files", "aria-label": "Opened files" });
  const charts = h("div", { class: "aside" });
  const browser = h("section", { "aria-label": "Rollouts by training step" });
  const progress = (text) => (status.textContent = text);
  root.replaceChildren(
    h("h2", {}, "Training"),
    dropZone("run-files", "Open metrics.jsonl and rollouts.jsonl of one or several runs, or numbers by step of another trainer (JSON lines with a field step).", (given) => open(given, progress)),
    status, list, charts, browser);
  const curves = runCharts(charts);
  const browse = byStep(browser, inspect, (isOpen) => root.classList.toggle("reading", isOpen));
  listen(redraw);
  redraw();

  function redraw() {
    const rows = allRows();
    const found = new Map(runs().map((run) => [run.name, { ...run }]));
    for (const name of new Set(rows.filter((row) => row.step !== null).map((row) => row.run))) {
      const records = fromRollouts(rows.filter((row) => row.run === name));
      if (found.has(name)) found.get(name).records = [...found.get(name).records, ...records];
      else found.set(name, { name, records });
    }
    fileList(list, progress);
    root.classList.toggle("has-files", files.length > 0);
    curves.show([...found.values()].map((run) => ({ ...run, rename: (to) => rename(run.name, to) })));
    browse(rows.filter((row) => row.step !== null));
    const steps = new Set([...found.values()].flatMap(({ records }) => records.map((record) => record.step)));
    const bad = files.reduce((total, opened) => total + opened.bad.count, 0);
    const parts = [`${found.size} ${found.size === 1 ? "run" : "runs"}`, `${number(steps.size)} training steps`, `${number(rows.length)} rollouts`];
    if (bad) parts.push(`${number(bad)} ${bad === 1 ? "line" : "lines"} could not be read`);
    progress(files.length ? parts.join(", ") : "");
  }
}

/** The slider of training steps, and the table of the rollouts of the chosen one. */
function byStep(root, inspect, reading) {
  const slider = h("input", { type: "range", min: 0, value: 0, id: "run-step", "aria-label": "Training step", oninput: () => draw() });
  const [first, last] = [h("span", { class: "range" }), h("span", { class: "range" })];
  const summary = h("output", { for: "run-step" });
  const table = h("div", {});
  root.replaceChildren(h("h3", {}, "Rollouts by training step"), h("div", { class: "slider aside" }, first, slider, last), summary, table);
  const rollouts = rolloutTable(table, { label: "Rollouts of the training step", inspect, reading });
  let [rows, steps] = [[], []];

  function draw() {
    const step = steps[slider.value];
    const here = rows.filter((row) => row.step === step);
    const all = here.reduce((total, row) => total + (row.steps || 0), 0);
    const wrong = here.reduce((total, row) => total + (row.wrong || 0), 0);
    summary.textContent = `training step ${number(step, 0)}: ${number(here.length)} ${here.length === 1 ? "rollout" : "rollouts"}, ${number(wrong)} of ${number(all)} steps wrong`;
    slider.setAttribute("aria-valuetext", summary.textContent);
    rollouts.close();
    rollouts.show(here);
  }

  return (given) => {
    const before = steps[slider.value];
    rows = given;
    steps = [...new Set(rows.map((row) => row.step))].sort((a, b) => a - b);
    root.hidden = !rows.length;
    if (!rows.length) return;
    slider.max = steps.length - 1;
    slider.value = Math.max(steps.indexOf(before), 0);
    [first.textContent, last.textContent] = [number(steps[0], 0), number(steps.at(-1), 0)];
    draw();
  };
}
