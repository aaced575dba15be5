// The inspector: credit of a rollout, or of several rollouts or two judges side by side.
import { Problem, Service } from "./api.js";
import { textOf } from "./columns.js";
import { $, h } from "./dom.js";
import { arrange, offerExamples, options, others, prepare } from "./form.js";
import { group } from "./group.js";
import { bind, step } from "./keys.js";
import { isRendered } from "./math.js";
import { promptView, rememberRequest } from "./prompt.js";
import { rolloutView } from "./rollout.js";
import { restore, saveJson, savePng, share } from "./share.js";
import { showHeat, showMathematics } from "./step_text.js";
import { asTurns } from "./trajectory.js";
import { revote } from "./votes.js";

export { applyInfo } from "./form.js";

const METHODS = ["intersection", "majority", "union", "average", "greedy"]; // keys 1 to 5

const service = new Service();
let entries = []; // shown results: [{title, question, text, tokens, result, timing, model}]
let isGroup = false; // whether they are rollouts of one question, judged alike
let around = {}; // what is before and after a rollout that another view opened
let running = null;

export async function start() {
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    credit();
  });
  $("form").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
  });
  $("form").addEventListener("change", arrange);
  $("vote").addEventListener("submit", (event) => event.preventDefault());
  $("vote").addEventListener("input", (event) => ["heat", "mathematics"].includes(event.target.id) || show());
  $("share").addEventListener("click", () => share(entries));
  $("save-json").addEventListener("click", () => saveJson(entries, chosen()));
  $("save-png").addEventListener("click", savePng);
  $("heat").addEventListener("change", () => heat($("heat").checked));
  $("mathematics").checked = isRendered();
  $("mathematics").addEventListener("change", () => showMathematics($("mathematics").checked));
  bindKeys();
  await offerExamples();
  const shared = await restore();
  arrange();
  if (shared.length) display(shared, $("compare").value !== "judge");
}

function bindKeys() {
  bind("j", "next step", () => step(".step", 1));
  bind("k", "previous step", () => step(".step", -1));
  bind("← →", "tokens of the step that has the focus", null);
  bind("n", "next rollout", () => (around.next ? around.next() : step(".rollout", 1)));
  bind("p", "previous rollout", () => (around.previous ? around.previous() : step(".rollout", -1)));
  bind("1 2 3 4 5", `voting: ${METHODS.join(", ")}`, (event) => {
    $("method").value = METHODS[Number(event.key) - 1];
    show();
  });
  bind("m", "formulas and tool calls rendered, or the raw text", () => $("mathematics").click());
  bind("Ctrl+Enter", "credit the rollout in the form", null);
}

function heat(value) {
  $("heat").checked = value;
  $("rollouts").classList.toggle("show-heat", value);
  showHeat(value);
}

async function credit() {
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  $("credit").disabled = true;
  $("problem").replaceChildren();
  $("said").textContent = "";
  const again = () => !signal.aborted && credit();
  try {
    const isJudges = $("compare").value === "judge";
    const first = await prepare(service, $("response-a").value, true);
    const rest = await Promise.all(others().map((text) => prepare(service, text, false)));
    const jobs = [first, ...rest].map((each, i) => judge(i ? `Rollout ${i + 1}` : rest.length ? "Rollout 1" : "Rollout", service, each, signal));
    if (isJudges) jobs.push(judge("Other judge", new Service($("url-b").value, $("key-b").value), first, signal));
    const found = await Promise.all(jobs);
    if (isJudges) found.forEach((entry) => (entry.title = entry.model));
    if ($("criteria").value.trim()) $("scheme").value = "criteria";
    $("k").max = $("k").value = $("sampling").value === "greedy" ? 1 : $("n").value;
    around = {};
    display(found, rest.length > 0);
    $("result").scrollIntoView({ block: "nearest" });
  } catch (error) {
    if (error.name !== "AbortError") showError(error, again, signal);
  } finally {
    $("credit").disabled = false;
  }
}

async function judge(title, by, { rollout, tokens }, signal) {
  const asked = options(rollout);
  if (rollout.response_turns) asked.include.push("response");
  const { result, response } = await by.credit(rollout, asked, signal);
  rememberRequest(result, by, rollout, asked);
  return { title, question: rollout.question ?? textOf(rollout.messages), text: result.response ?? rollout.response, tokens, result, timing: response.timing_ms, model: response.model };
}

/** Show an error and its advice; 429 and 503 are retried. */
function showError(error, again, signal) {
  const problem = error instanceof Problem ? error : new Problem(0, "Error in this page", String(error.message || error));
  const wait = problem.status === 429 || problem.status === 503 ? (problem.retryAfter ?? 3) : null;
  const left = h("p", { class: "wait" });
  $("problem").replaceChildren(
    h("h2", {}, `${problem.status || ""} ${problem.title}`.trim()),
    h("p", {}, problem.message),
    h("p", {}, problem.advice),
    wait === null ? "" : left,
    wait === null ? "" : h("button", { type: "button", onclick: () => (running?.abort(), $("problem").replaceChildren()) }, "Cancel"),
  );
  if (problem.status === 401) $("api-key").focus();
  if (wait === null) return;
  let seconds = wait;
  const tick = () => {
    if (signal.aborted) return;
    left.textContent = `Retrying in ${seconds} s.`;
    if (seconds-- > 0) setTimeout(tick, 1000);
    else again();
  };
  tick();
}

function chosen() {
  return {
    method: $("method").value, k: Number($("k").value) || 1, scheme: $("scheme").value,
    w_whole: Number($("w_whole").value), w_process: Number($("w_process").value), w_criteria: Number($("w_criteria").value),
  };
}

/** Show results, coloured by advantage if they are a group of several. */
function display(found, sameQuestion) {
  entries = found;
  isGroup = sameQuestion && found.length > 1;
  $("rollouts").replaceChildren(); // what was open belongs to other results
  heat(isGroup);
  $("heat-name").textContent = `color tokens by ${isGroup ? "advantage" : "reward"}`;
  $("rollouts").classList.toggle("by-advantage", isGroup);
  show();
}

function show() {
  if (!entries.length) return;
  $("w_criteria-label").hidden = $("scheme").value !== "criteria";
  const voted = entries.map((entry) => revote(entry.result, chosen()));
  const rewards = voted.flatMap((vote) => vote.rewards || []);
  const { w_whole, w_process } = chosen();
  const grouped = isGroup ? group(entries, voted) : null;
  const votes = grouped?.votes ?? voted;
  const bounds = grouped?.bounds ?? [Math.min(...rewards, -w_process, 0), Math.max(...rewards, w_whole, 0)];
  const shown = $("rollouts").hasChildNodes(); // not the first time
  const open = new Set([...$("rollouts").querySelectorAll("details[open]")].map((each) => each.dataset.name));
  const views = entries.map((entry, i) => rolloutView(entry, votes[i], bounds, entry.title, promptView(entry)));
  $("group").replaceChildren(...(grouped ? [grouped.view] : []));
  $("rollouts").replaceChildren(...views);
  views.forEach((view, i) => keepOpen(view, i, shown ? open : null));
  $("result").hidden = false;
}

/** Open again what was open before, if anything was shown: a step's details and observations by their number, others by their place. */
function keepOpen(view, rollout, open) {
  const details = [...view.querySelectorAll("details")];
  const observations = details.filter((each) => each.closest(".observation"));
  details.forEach((each, i) => {
    const step = each.closest(".step")?.dataset.step;
    const observation = observations.indexOf(each);
    const place = step !== undefined ? `step ${step}` : observation < 0 ? `${i - details.length} from the end` : `observation ${observation}`;
    each.dataset.name = `${rollout}, ${place}`;
    if (open) each.open = open.has(each.dataset.name);
  });
}

/**
 * Show existing results, of another view.
 *
 * @param entry {title, question, text, tokens, result, timing}; or a list of several of one question, a group
 * @param vote of the fields of the form `vote`: {method, scheme, w_whole, w_process}
 * @param {{next?: () => void, previous?: () => void}} neighbours what the keys n and p do
 */
export function present(entry, vote = {}, neighbours = {}) {
  const found = [entry].flat();
  const count = (each) => (each.result.critiques || []).filter((critique) => critique.critic !== "symbolic").length;
  $("question").value = found[0].question;
  const turns = asTurns(found[0].text, found[0].result);
  $("written").value = turns ? "turns" : "text";
  $("response-a").value = turns ? JSON.stringify(turns, null, 1) : found[0].text;
  $("k").max = $("k").value = Math.max(...found.map(count), 1);
  if (found.some((each) => each.result.criteria?.some((criterion) => criterion.reward))) $("scheme").value = "criteria";
  for (const [name, value] of Object.entries(vote)) if ($(name)) $(name).value = value;
  around = neighbours;
  display(found, true);
}
