// The Rollouts view: rollouts and results of files in a table, credited from here, labelled, exported.
import { Problem, Service } from "./api.js";
import { creditedLines, creditRows } from "./crediting.js";
import { download, h, number } from "./dom.js";
import { dropZone } from "./drop.js";
import { fileList } from "./filelist.js";
import { allLines, clearLabels, finishedLines, summary } from "./labels.js";
import { allRows, files, listen, open } from "./opened.js";
import { rolloutTable } from "./table.js";
import { many } from "./words.js";

const ASK = 200; // rollouts; more are credited only after a question

const service = new Service();

/**
 * @param {HTMLElement} root
 * @param {(entry: object, vote: object) => void} inspect shows a rollout in the Inspect view
 */
export function start(root, inspect) {
  const status = h("p", { role: "status" });
  const list = h("section", { class: "files", "aria-label": "Opened files" });
  const table = h("div", {});
  const hiding = (isOpen) => root.classList.toggle("reading", isOpen);
  const credit = creditForm(() => redraw());
  const labels = labelForm();
  const progress = (text) => (status.textContent = text);
  root.replaceChildren(
    h("h2", {}, "Rollouts"),
    dropZone("rollout-files", "Open rollouts or results (JSON or JSON lines): output and input of capo credit, rollouts.jsonl of a run, dumps of verl, TRL or other programs, exported labels.", (given) => open(given, progress)),
    status, list, credit.element, labels.element, table);
  const rollouts = rolloutTable(table, { label: "Rollouts of the files", inspect, reading: hiding, changed: (found) => (credit.offer(found, rollouts?.selected), labels.draw()) });
  listen(redraw);
  redraw();

  function redraw() {
    const rows = allRows();
    fileList(list, progress);
    root.classList.toggle("has-files", files.length > 0);
    table.hidden = !rows.length;
    rollouts.show(rows);
    labels.draw();
    if (files.length && !rows.length) progress(files.some((each) => each.metrics.length) ? "The files hold metrics only: see Training." : "No rollouts in these files.");
    else progress("");
  }
}

/** Credits the rows that are shown or selected and have no result yet. */
function creditForm(changed) {
  const n = h("input", { type: "number", min: 1, max: 64, value: 4 });
  const method = h("select", {}, ["majority", "intersection", "union", "average", "greedy"].map((value) => h("option", {}, value)));
  const style = h("select", {}, h("option", { value: "" }, "server default"), ["verdict", "brief", "full"].map((value) => h("option", {}, value)));
  const thinking = h("input", { type: "number", min: 0, placeholder: "default", title: "maximum tokens of a thought; 0: none; empty: the service's default" });
  const start = h("button", { type: "submit", class: "main" }, "Credit");
  const stop = h("button", { type: "button", hidden: true, onclick: () => running?.abort() }, "Stop");
  const save = h("button", { type: "button", onclick: saveResults }, "Save results (JSONL)");
  const said = h("p", { role: "status" });
  const element = h("form", { class: "crediting", "aria-label": "Credit rollouts", onsubmit: (event) => (event.preventDefault(), run()) },
    h("div", { class: "settings" }, h("label", {}, "Voting", method), h("label", {}, "Critiques", n), h("label", {}, "Style", style), h("label", {}, "Thinking budget", thinking), start, stop, save), said);
  let [waiting, shown, running] = [[], [], null];

  function offer(found, selected) {
    const chosen = selected?.size ? found.filter((row) => selected.has(row)) : found;
    shown = chosen;
    waiting = chosen.filter((row) => row.state !== "credited" && row.response && row.question);
    start.textContent = `Credit ${number(waiting.length)} ${selected?.size ? "selected" : "shown"}`;
    start.hidden = stop.hidden === false || !waiting.length;
    for (const field of [method, n, style, thinking]) field.parentElement.hidden = !waiting.length && !running;
    save.hidden = !chosen.some((row) => row.state === "credited");
    element.hidden = start.hidden && stop.hidden && save.hidden;
  }

  async function run() {
    const rows = waiting;
    if (rows.length > ASK && !confirm(`Send ${number(rows.length)} rollouts to the judge, ${n.value} critiques each?`)) return;
    running = new AbortController();
    start.hidden = true;
    stop.hidden = false;
    const progress = (done, note) => (said.textContent = `${number(done)} of ${number(rows.length)} credited. ${note}`);
    try {
      progress(0, "");
      const { tokenizers } = await service.info();
      await creditRows(service, rows, { n: Number(n.value), method: method.value, style: style.value, thinking: thinking.value }, tokenizers, { signal: running.signal, progress });
      const failed = rows.filter((row) => row.state === "failed").length;
      said.textContent = `${number(rows.filter((row) => row.state === "credited").length)} rollouts credited${failed ? `, ${number(failed)} failed` : ""}.`;
    } catch (error) {
      running.abort();
      const done = rows.filter((row) => row.state === "credited").length;
      const why = error.name === "AbortError" ? "Stopped" : `${error.title || "Error"}: ${error.message} ${error instanceof Problem ? error.advice : ""}`;
      said.textContent = `${why}. ${number(done)} of ${number(rows.length)} are credited; press Credit to go on.`.replace("..", ".");
    }
    running = null;
    stop.hidden = true;
    changed();
  }

  async function saveResults() {
    download("credited.jsonl", new Blob([(await creditedLines(shown)).map((line) => `${line}\n`).join("")], { type: "application/x-ndjson" }));
  }

  return { element, offer };
}

/** How far the labels are, and their export. */
function labelForm() {
  const said = h("p", { role: "status" });
  const finished = h("button", { type: "button", onclick: () => save("labels.jsonl", finishedLines()) }, "Export for capo eval and canary_file");
  const all = h("button", { type: "button", onclick: () => save("labels-in-progress.jsonl", allLines()) }, "Export all, to go on later");
  const clear = h("button", { type: "button", onclick: () => confirm("Delete all labels of this page?") && (clearLabels(), draw()) }, "Delete the labels");
  const element = h("section", { class: "labels", "aria-label": "Labels", hidden: true }, said, h("div", { class: "settings" }, finished, all, clear));

  function save(name, lines) {
    download(name, new Blob([lines.map((line) => `${line}\n`).join("")], { type: "application/x-ndjson" }));
  }

  function draw() {
    const { rollouts, finished: done, steps, judged, agree, missed, falseAlarms, good, bad } = summary();
    element.hidden = !rollouts;
    finished.disabled = !done;
    const parts = [`Labels: ${many(steps, "step")} of ${many(rollouts, "rollout")}. ${many(done, "rollout")} with a label on every step: only these are exported for capo eval.`];
    if (judged) parts.push(`The judge agrees with ${number(agree)} of ${number(judged)} (${Math.round((100 * agree) / judged)}%): it missed ${many(missed, "wrong step")} and flagged ${many(falseAlarms, "right step")}.`);
    if (done && !(good && bad)) parts.push(`canary_file also needs a rollout ${good ? "with" : "without"} a wrong step.`);
    said.textContent = parts.join(" ");
  }

  return { element, draw };
}
