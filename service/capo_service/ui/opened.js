// The files that are open in the page, of all views: rollouts, metrics of runs, labels, bad lines.
import { at, columnsOf, guess, remember, remembered } from "./columns.js";
import { FileProblem, readRecords, rowOf } from "./jsonfile.js";
import { importLabels } from "./labels.js";
import { join, kindOf, listIn, makeRow } from "./rows.js";

const SHOWN_BAD = 5; // bad lines that are told one by one

/**
 * @typedef {object} Opened
 * @property {File} file
 * @property {string} name with its folder, if that is known
 * @property {import("./rows.js").Row[]} rows
 * @property {{kind: string, step: number}[]} metrics
 * @property {number} labels rollouts whose labels were taken over
 * @property {{count: number, first: {line: number, reason: string}[]}} bad
 * @property {object | null} mapping of columns; null for this project's own formats
 * @property {string[]} columns
 * @property {string | null} problem why it cannot be read at all
 */

/** @type {Opened[]} */
export const files = [];
const listeners = new Set();

export function listen(listener) {
  listeners.add(listener);
}

const tell = () => listeners.forEach((listener) => listener());

/** All rows, with results and inputs joined. */
export const allRows = () => join(files.map((opened) => opened.rows));

/** Records of metrics by run: {name, records}. */
export const runs = () => files.filter((opened) => opened.metrics.length).map((opened) => ({ opened, name: opened.run, records: opened.metrics }));

/**
 * Open files, in addition to those that are open; one that is open already is read again.
 *
 * @param {{file: File, name: string}[]} given
 * @param {(text: string) => void} progress
 */
export async function open(given, progress) {
  for (const { file, name } of given) {
    const opened = await read(file, name, null, progress);
    const same = files.findIndex((each) => each.name === name && each.file.size === file.size && each.file.lastModified === file.lastModified);
    if (same >= 0) files.splice(same, 1);
    opened.run = nameOfRun(name);
    for (const row of opened.rows) row.run ??= opened.run;
    files.push(opened);
    tell();
  }
}

/** Read a file again with other columns, which the session remembers. */
export async function remap(opened, mapping, progress) {
  remember(opened.columns, mapping);
  const again = await read(opened.file, opened.name, mapping, progress);
  for (const row of again.rows) row.run ??= opened.run;
  const at = files.indexOf(opened);
  if (at < 0) return; // closed meanwhile
  files.splice(at, 1, { ...again, run: opened.run });
  tell();
}

/** Give a run another name, in its metrics and its rollouts. */
export function rename(from, to) {
  for (const opened of files) {
    if (opened.run === from) opened.run = to;
    for (const row of opened.rows) if (row.run === from) row.run = to;
  }
  tell();
}

export function close(opened) {
  const at = files.indexOf(opened);
  if (at >= 0) files.splice(at, 1);
  tell();
}

/** runs/a/metrics.jsonl is of run a; a metrics.jsonl without a folder is told from others by a number. */
function nameOfRun(name) {
  const parts = name.split("/");
  const plain = parts.at(-1).replace(/\.(jsonl?|ndjson)$/i, "");
  const base = parts.length > 1 ? parts.at(-2) : /^(metrics|rollouts|\d+)$/.test(plain) ? "run" : plain;
  if (parts.length > 2 || /^\d+$/.test(plain)) return base; // files of one folder are of one run
  const taken = new Set(files.filter((each) => each.name.split("/").at(-1) === parts.at(-1)).map((each) => each.run));
  let [found, number] = [base, 2];
  while (taken.has(found)) found = `${base} (${number++})`;
  return found;
}

async function read(file, name, given, progress) {
  const opened = { file, name, rows: [], metrics: [], labels: 0, bad: { count: 0, first: [] }, mapping: null, columns: [], problem: null };
  const bad = (line, reason) => {
    opened.bad.count += 1;
    if (opened.bad.first.length < SHOWN_BAD) opened.bad.first.push({ line, reason });
  };
  const record = (value, place, number) => {
    try {
      take(opened, value, place, number, given, bad);
    } catch (error) {
      bad(number, `a field has another type than expected (${error.message})`);
    }
  };
  let told = 0;
  try {
    await readRecords(file, {
      record,
      bad,
      progress: (bytes) => {
        if (performance.now() - told < 200) return;
        told = performance.now();
        progress(`Reading ${name}: ${Math.round((bytes / file.size) * 100)}%, ${opened.rows.length + opened.metrics.length} records`);
      },
    });
  } catch (error) {
    opened.problem = error instanceof FileProblem ? error.message : `The file cannot be read: ${error.message}`;
  }
  return opened;
}

function take(opened, value, place, number, given, bad) {
  const kind = kindOf(value);
  if (kind === "metrics") opened.metrics.push(value);
  else if (kind === "labels") {
    if (!importLabels(value)) return bad(number, "the labels cannot be read");
    opened.labels += 1;
    opened.rows.push(makeRow(value, kind, place, { number }));
  } else if (kind === "list") {
    const name = listIn(value);
    value[name].forEach((inner, i) => take(opened, inner, { ...place, path: [...(place.path || []), name, i] }, i + 1, given, bad));
  } else if (kind === "other") other(opened, value, place, number, given, bad);
  else opened.rows.push(makeRow(value, kind, place, { number }));
}

/** A record of another program: rollouts by a mapping of columns, or metrics. */
function other(opened, value, place, number, given, bad) {
  const usual = given ?? opened.mapping ?? remembered(columnsOf(value)) ?? guess(value);
  // Lines of one file may differ: a trajectory as chat turns has another column than a text.
  const isOdd = !given && usual.response && (at(value, usual.response) ?? null) === null;
  const found = isOdd ? guess(value) : usual;
  const mapping = found.response ? found : usual;
  if (!opened.columns.length && !(isMetrics(value) && !mapping.response)) Object.assign(opened, { columns: columnsOf(value), mapping });
  const texts = value[mapping.response];
  if (Array.isArray(texts) && texts.length && texts.every((text) => typeof text === "string" || Array.isArray(text)) && Array.isArray(value[mapping.question])
    && value[mapping.question].length === texts.length) {
    // A line with a column of values per field, as ms-swift writes.
    texts.forEach((_, i) => add(opened, rowOf(value, i), { ...place, path: [...(place.path || []), "@", i] }, number, mapping, bad));
  } else add(opened, value, place, number, mapping, bad);
}

function add(opened, value, place, number, mapping, bad) {
  const row = mapping.response ? makeRow(value, "other", place, { mapping, number }) : null;
  if (row) opened.rows.push(row);
  else if (isMetrics(value)) opened.metrics.push({ kind: "train", ...value, step: value.step ?? value.global_step });
  else bad(number, mapping.response ? `no text in the columns ${mapping.question ?? "(no question)"} and ${mapping.response}` : "no column with a response was recognized");
}

/** Numbers by step, as trainers log them. */
function isMetrics(value) {
  return typeof (value.step ?? value.global_step) === "number" && Object.entries(value).some(([name, each]) => typeof each === "number" && !/step|epoch/.test(name));
}
