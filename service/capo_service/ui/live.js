// The live view: charts of the service's counters, and recent rollouts if it keeps them.
import { lineChart } from "./charts.js";
import { Problem, Service } from "./api.js";
import { h, number } from "./dom.js";

const service = new Service();
const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");
let timer = null;
let filter = { key: "", run: "" };
let known = { samples: [], recent: [] };

/** Fetch new samples and rollouts, and append them. */
async function update() {
  const latest = Math.max(known.samples.at(-1)?.at ?? 0, known.recent.at(-1)?.at ?? 0);
  const live = await service.live(latest);
  known = {
    ...live,
    samples: [...known.samples, ...live.samples].slice(-450),
    recent: live.keeps ? [...known.recent, ...live.recent].slice(-live.keeps) : [],
  };
  return known;
}

export function start(root, open) {
  const charts = h("div", { class: "charts" });
  const status = h("p", { role: "status" });
  const recent = h("div", {});
  const keys = h("select", { onchange: (event) => ((filter.key = event.target.value), tick()) });
  const runs = h("select", { onchange: (event) => ((filter.run = event.target.value), tick()) });
  root.replaceChildren(h("h2", {}, "Live"), status, h("div", { class: "settings" }, h("label", {}, "Key", keys), h("label", {}, "Run", runs)), charts, h("h3", {}, "Recent rollouts"), recent);

  async function tick() {
    clearTimeout(timer);
    if (root.hidden) return;
    try {
      const live = await update();
      const minutes = Math.round((live.samples.length * live.seconds) / 60);
      status.textContent = `${live.model}, last ${minutes > 1 ? `${minutes} minutes` : "minute"}`;
      fill(keys, [...new Set(live.recent.map((each) => each.key))], filter.key);
      fill(runs, [...new Set(live.recent.map((each) => each.run || ""))].filter(Boolean), filter.run);
      draw(charts, live);
      list(recent, live, open);
      timer = setTimeout(tick, live.seconds * 1000);
    } catch (error) {
      const advice = error instanceof Problem ? error.advice : "";
      status.textContent = `${error.title || "No response"}: ${error.message} ${advice}`;
      timer = setTimeout(tick, 5000);
    }
  }
  tick();
}

function fill(select, values, chosen) {
  if (document.activeElement === select) return;
  select.replaceChildren(h("option", { value: "" }, "all"), ...values.sort().map((value) => h("option", { value }, value)));
  select.value = values.includes(chosen) ? chosen : "";
}

const matching = (each) => (!filter.key || each.key === filter.key) && (!filter.run || each.run === filter.run);

/** A rate or share between consecutive samples; null if nothing was counted. */
function between(samples, value) {
  return samples.slice(1).map((sample, i) => [sample.at, value(samples[i], sample)]);
}

function draw(root, { samples, recent, keeps }) {
  const share = (part, whole) => (before, after) => {
    const all = whole(after) - whole(before);
    return all > 0 ? (part(after) - part(before)) / all : null;
  };
  const plain = (name) => samples.map((sample) => [sample.at, sample[name]]);
  const seen = filter.key || filter.run ? recent.filter(matching) : null;
  const steps = (each) => each.result.steps;
  const wrong = seen
    ? seen.map((each) => [each.at, steps(each).filter((step) => step.wrong).length / steps(each).length])
    : between(samples, share((s) => s.steps_wrong, (s) => s.steps_wrong + s.steps_right));
  const agreed = seen
    ? seen.map((each) => [each.at, agreement(steps(each))])
    : between(samples, share((s) => s.agreement_sum, (s) => s.agreement_count));
  const chart = (title, series, more = {}) =>
    lineChart({ title, series: series.map(([name, points]) => ({ name, points })), floor: 0, xLabel: clock, ...more });
  root.replaceChildren(
    chart("Rollouts", [["accepted", plain("accepted")], ["being judged", plain("running")]]),
    chart("Tokens queued", [["queued", plain("queued_tokens")]]),
    chart("Tokens generated", [["generated", between(samples, (a, b) => (b.completion_tokens - a.completion_tokens) / (b.at - a.at))]], { unit: "/s" }),
    chart("Steps flagged as wrong", [["wrong", wrong]], { ceiling: 1 }),
    chart("Agreement of critiques", [["agreement", agreed]], { ceiling: 1 }),
    chart("Known-answer probes judged correctly", [["good", plain("canary_good")], ["bad", plain("canary_bad")]], { ceiling: 1 }),
  );
  if (seen && !keeps) root.append(h("p", {}, "The filter needs recent rollouts, and the service keeps none."));
}

function agreement(steps) {
  const shares = steps.filter((s) => s.votes.valid > 1).map((s) => Math.max(s.votes.wrong, s.votes.valid - s.votes.wrong) / s.votes.valid);
  return shares.length ? shares.reduce((a, b) => a + b) / shares.length : null;
}

function list(root, { recent, keeps }, open) {
  const shown = recent.filter(matching).slice(-50).reverse();
  if (!keeps) {
    root.replaceChildren(h("p", {}, "This service keeps no rollouts. To see recent ones here, start it with --set live_rollouts=200; they are kept in memory, with their text."));
    return;
  }
  if (!shown.length) {
    root.replaceChildren(h("p", {}, "No rollouts yet."));
    return;
  }
  root.replaceChildren(
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Recent rollouts" },
      h("table", { class: "list" },
        h("thead", {}, h("tr", {}, ["time", "key", "run", "question", "wrong steps", "outcome", ""].map((name) => h("th", { scope: "col" }, name || h("span", { class: "sr" }, "open"))))),
        h("tbody", {}, shown.map((each) => {
          const { steps, outcome } = each.result;
          const entry = { title: `${each.run || each.key}, ${clock(each.at)}`, question: each.question, text: each.result.response, tokens: null, result: each.result, timing: null };
          return h("tr", {},
            h("td", {}, clock(each.at)), h("td", {}, each.key), h("td", {}, each.run || "–"),
            h("td", { class: "text" }, each.question.slice(0, 120)),
            h("td", {}, `${steps.filter((step) => step.wrong).length} of ${steps.length}`),
            h("td", {}, outcome ? number(outcome.value) : "–"),
            h("td", {}, h("button", { type: "button", onclick: () => open(entry, { method: each.method }) }, "Open")));
        })))),
  );
}
