// The live view: charts of the service's counters, and recent rollouts if it keeps them.
import { lineChart } from "./charts.js";
import { Problem, Service } from "./api.js";
import { h, number } from "./dom.js";
import { liveRow } from "./rows.js";
import { rolloutTable } from "./table.js";

const service = new Service();
const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");
const linkTo = (row) => (row.request ? `#r=${encodeURIComponent(row.id)}` : null);
let known = { samples: [], recent: [] };
let rows = []; // of known.recent, newest first
let view = null;
let wanted = null; // id of a link that waits for the first answer

/** Fetch new samples and rollouts, and append them. */
async function update() {
  const latest = Math.max(known.samples.at(-1)?.at ?? 0, known.recent.at(-1)?.at ?? 0);
  const live = await service.live(latest);
  known = {
    ...live,
    samples: [...known.samples, ...live.samples].slice(-450),
    recent: live.keeps ? [...known.recent, ...live.recent].slice(-live.keeps) : [],
  };
  const changed = live.recent.length > 0 || known.recent.length < rows.length;
  if (changed) rows = [...live.recent.map(liveRow).reverse(), ...rows].slice(0, known.recent.length);
  return changed;
}

/**
 * Show the view, and keep it up to date while it is visible.
 *
 * @param {HTMLElement} root
 * @param {(entry: object, vote: object) => void} inspect shows a rollout in the Inspect view
 */
export function start(root, inspect) {
  view ??= create(root, inspect);
  view.tick();
}

/** Open the rollout of a link, `cr_...` or `cr_.../id`, when it is there. */
export function show(id) {
  wanted = id;
  view?.tick();
}

function create(root, inspect) {
  const status = h("p", { role: "status" });
  const note = h("p", { class: "note", role: "status" });
  const charts = h("div", { class: "charts aside" });
  const recent = h("div", {});
  const none = h("p", { hidden: true }, "This service keeps no rollouts. To see recent ones here, start it with --set live_rollouts=200; they are kept in memory, with their text.");
  root.replaceChildren(h("h2", {}, "Live"), status, note, charts, h("h3", {}, "Recent rollouts"), none, recent);
  let shown = null; // rows that match the filters
  const table = rolloutTable(recent, { label: "Recent rollouts", inspect, link: linkTo, reading: (isOpen) => root.classList.toggle("reading", isOpen), changed: (found) => ((shown = found), draw(charts, shown)) });
  let timer = null;
  let busy = false; // two answers to the same question would show its rollouts twice

  async function tick() {
    if (busy) return;
    clearTimeout(timer);
    if (root.hidden) return;
    busy = true;
    try {
      const changed = await update();
      const minutes = Math.round((known.samples.length * known.seconds) / 60);
      status.textContent = `${known.model}, last ${minutes > 1 ? `${minutes} minutes` : "minute"}`;
      none.hidden = known.keeps > 0;
      recent.hidden = !known.keeps;
      if (changed || shown === null) table.show(rows);
      else draw(charts, shown);
      if (wanted) note.textContent = follow(table);
      timer = setTimeout(tick, known.seconds * 1000);
    } catch (error) {
      const advice = error instanceof Problem ? error.advice : "";
      status.textContent = `${error.title || "No response"}: ${error.message} ${advice}`;
      timer = setTimeout(tick, 5000);
    } finally {
      busy = false;
    }
  }

  return { tick };
}

/** Open what the link names; what to say if it cannot be. */
function follow(table) {
  const id = wanted;
  wanted = null;
  const found = rows.filter((row) => row.id === id || row.request === id);
  if (found.length === 1) table.open(found[0]);
  else if (found.length) table.search(id);
  else return `${id} is not among the rollouts that this service keeps: the last ${known.keeps} of this key (setting live_rollouts), since its start.`;
  return "";
}

/** A rate or share between consecutive samples; null if nothing was counted. */
function between(samples, value) {
  return samples.slice(1).map((sample, i) => [sample.at, value(samples[i], sample)]);
}

/** Charts of all rollouts; if filters leave only some, shares are of these. */
function draw(root, found) {
  const { samples } = known;
  const share = (part, whole) => (before, after) => {
    const all = whole(after) - whole(before);
    return all > 0 ? (part(after) - part(before)) / all : null;
  };
  const plain = (name) => samples.map((sample) => [sample.at, sample[name]]);
  const seen = found && found.length < rows.length ? [...found].sort((a, b) => a.time - b.time) : null;
  const wrong = seen
    ? seen.map((row) => [row.time, row.wrong / row.steps])
    : between(samples, share((s) => s.steps_wrong, (s) => s.steps_wrong + s.steps_right));
  const agreed = seen
    ? seen.map((row) => [row.time, row.agreement])
    : between(samples, share((s) => s.agreement_sum, (s) => s.agreement_count));
  const of = seen ? ` (${number(seen.length)} filtered rollouts)` : "";
  const chart = (title, series, more = {}) =>
    lineChart({ title, series: series.map(([name, points]) => ({ name, points })), floor: 0, xLabel: clock, ...more });
  root.replaceChildren(
    chart("Rollouts in the service", [["accepted", plain("accepted")], ["being judged", plain("running")]], { unit: "rollouts" }),
    chart("Queue", [["queued", plain("queued_tokens")]], { unit: "tokens" }),
    chart("Completion tokens", [["completion", between(samples, (a, b) => (b.completion_tokens - a.completion_tokens) / (b.at - a.at))]], { unit: "/s" }),
    chart(`Steps flagged as wrong${of}`, [["wrong", wrong]], { unit: "%", ceiling: 1 }),
    chart(`Agreement of critiques${of}`, [["agreement", agreed]], { unit: "%", ceiling: 1 }),
    chart("Known-answer accuracy", [["good", plain("canary_good")], ["bad", plain("canary_bad")]], { unit: "%", ceiling: 1 }),
    ...(samples.at(-1)?.thoughts ? thoughts() : []), // of a judge that thinks
  );

  function thoughts() {
    return [
      chart("Thoughts that reached their budget", [["truncated", between(samples, share((s) => s.thoughts_truncated, (s) => s.thoughts))]], { unit: "%", ceiling: 1 }),
      chart("Mean length of thoughts", [["length", between(samples, share((s) => s.thought_tokens, (s) => s.thoughts))]], { unit: "tokens" }),
    ];
  }
}
