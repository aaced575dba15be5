// The inspector: credit of a rollout, or of two rollouts or two judges side by side.
import { Problem, Service } from "./api.js";
import { $, download, h, pack, unpack } from "./dom.js";
import { picture } from "./picture.js";
import { rolloutView } from "./rollout.js";
import { revote } from "./votes.js";

const FIELDS = ["question", "response-a", "response-b", "url-b", "compare", "outcome", "reference", "tokenizer", "ids", "sampling", "n", "style",
  "segment", "pattern", "temperature", "seed"];
const VOTE = ["method", "k", "scheme", "w_whole", "w_process"];
const MAX_LINK = 60_000; // characters; browsers allow more, mail programs do not

const service = new Service();
let entries = []; // shown results: [{title, question, text, tokens, result, timing, model}]
let running = null;

export async function start(info) {
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    credit();
  });
  $("form").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
  });
  $("form").addEventListener("change", arrange);
  $("vote").addEventListener("submit", (event) => event.preventDefault());
  $("vote").addEventListener("input", show);
  $("share").addEventListener("click", share);
  $("save-json").addEventListener("click", saveJson);
  $("save-png").addEventListener("click", savePng);
  $("heat").addEventListener("change", () => $("rollouts").classList.toggle("show-heat", $("heat").checked));
  await examples();
  if (info) applyInfo(info);
  await restore();
  arrange();
}

/** Offer the tokenizers and limits that the service reports. */
export function applyInfo(info) {
  const chosen = $("tokenizer").value;
  $("tokenizer").replaceChildren(h("option", { value: "" }, "none"), ...info.tokenizers.map((name) => h("option", { value: name }, name)));
  $("tokenizer").value = info.tokenizers.includes(chosen) ? chosen : info.tokenizers[0] || "";
  $("n").max = info.limits.max_critiques;
}

async function examples() {
  try {
    const lines = (await (await fetch("ui/examples.jsonl")).text()).trim().split("\n").map(JSON.parse);
    lines.forEach((line, i) => $("example").append(h("option", { value: i }, `${i + 1}: ${line.question.slice(0, 60)}`)));
    $("example").addEventListener("change", () => {
      const line = lines[$("example").value];
      if (!line) return;
      $("question").value = line.question;
      $("response-a").value = line.response;
      $("reference").value = line.reference || "";
      $("outcome").value = line.outcome === undefined ? "" : String(line.outcome);
      $("ids").value = "";
      const twin = lines.find((other) => other.question === line.question && other.response !== line.response);
      if (twin) $("response-b").value = twin.response;
    });
  } catch {
    $("example").disabled = true;
  }
}

function arrange() {
  $("other-rollout").hidden = $("compare").value !== "rollout";
  $("other-judge").hidden = $("compare").value !== "judge";
  for (const id of ["n", "temperature"]) $(id).disabled = $("sampling").value === "greedy";
  $("pattern-label").hidden = $("segment").value !== "regex";
  $("response-b").required = !$("other-rollout").hidden;
  $("url-b").required = !$("other-judge").hidden;
}

function options(rollout) {
  const greedy = $("sampling").value === "greedy";
  const sampled = { method: "average", n: Number($("n").value), early_stop: false, temperature: Number($("temperature").value) };
  const voting = greedy ? { method: "greedy" } : sampled;
  if ($("seed").value) voting.seed = Number($("seed").value);
  if ($("style").value) voting.critique_style = $("style").value;
  const known = rollout.outcome !== undefined || rollout.reference;
  const segment = { method: $("segment").value };
  if (segment.method === "regex") segment.pattern = $("pattern").value;
  return { voting, segment, reward: known ? {} : { scheme: "process_only" }, include: ["token_rewards", "critiques"], priority: "evaluation", run: "inspector" };
}

/** The rollout of the request, with tokens if a tokenizer is chosen. */
async function prepare(response, withIds) {
  const rollout = { question: $("question").value, response };
  if ($("outcome").value) rollout.outcome = Number($("outcome").value);
  if ($("reference").value) rollout.reference = $("reference").value;
  let tokens = null;
  const tokenizer = $("tokenizer").value;
  if (tokenizer) {
    const asked = { tokenizer, response };
    const ids = withIds && $("ids").value.trim();
    if (ids) asked.response_token_ids = ids.split(/[\s,[\]]+/).filter(Boolean).map(Number);
    tokens = await service.tokens(asked);
    rollout.response_token_ids = tokens.response_token_ids;
    rollout.token_offsets = tokens.token_offsets;
  }
  return { rollout, tokens };
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
    const compared = $("compare").value;
    const first = await prepare($("response-a").value, true);
    const jobs = [judge("Rollout", service, first, signal)];
    if (compared === "rollout") jobs.push(judge("Other rollout", service, await prepare($("response-b").value, false), signal));
    if (compared === "judge") jobs.push(judge("Other judge", new Service($("url-b").value, $("key-b").value), first, signal));
    entries = await Promise.all(jobs);
    if (compared === "judge") entries.forEach((entry) => (entry.title = entry.model));
    $("k").max = $("k").value = $("sampling").value === "greedy" ? 1 : $("n").value;
    show();
    $("result").scrollIntoView({ block: "nearest" });
  } catch (error) {
    if (error.name !== "AbortError") showError(error, again, signal);
  } finally {
    $("credit").disabled = false;
  }
}

async function judge(title, by, { rollout, tokens }, signal) {
  const { result, response } = await by.credit(rollout, options(rollout), signal);
  return { title, question: rollout.question, text: rollout.response, tokens, result, timing: response.timing_ms, model: response.model };
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
    w_whole: Number($("w_whole").value), w_process: Number($("w_process").value),
  };
}

function show() {
  if (!entries.length) return;
  const votes = entries.map((entry) => revote(entry.result, chosen()));
  const rewards = votes.flatMap((vote) => vote.rewards || []);
  const { w_whole, w_process } = chosen();
  const bounds = [Math.min(...rewards, -w_process, 0), Math.max(...rewards, w_whole, 0)];
  const open = new Set([...$("rollouts").querySelectorAll("details[open]")].map((each) => each.dataset.name));
  $("rollouts").replaceChildren(...entries.map((entry, i) => rolloutView(entry, votes[i], bounds, entry.title)));
  $("rollouts").querySelectorAll("details").forEach((each, i) => {
    each.dataset.name = String(i);
    each.open = open.has(String(i));
  });
  $("result").hidden = false;
}

/** Show an existing result, of the live or the training view. */
export function present(entry, vote = {}) {
  entries = [entry];
  const critiques = (entry.result.critiques || []).filter((each) => each.critic !== "symbolic").length;
  $("question").value = entry.question;
  $("response-a").value = entry.text;
  $("k").max = $("k").value = Math.max(critiques, 1);
  for (const [name, value] of Object.entries(vote)) if ($(name)) $(name).value = value;
  show();
}

async function share() {
  const fields = Object.fromEntries(FIELDS.map((id) => [id, $(id).value]).filter(([, value]) => value !== ""));
  const vote = Object.fromEntries(VOTE.map((id) => [id, $(id).value]));
  let packed = await pack({ fields, vote, entries });
  let note = "Link with the result";
  if (packed.length > MAX_LINK) {
    packed = await pack({ fields, vote });
    note = "Link without the result, which is too long: opening it shows the inputs only";
  }
  history.replaceState(null, "", `#s=${packed}`);
  try {
    await navigator.clipboard.writeText(location.href);
    $("said").textContent = `${note}: copied.`;
  } catch {
    $("said").textContent = `${note}: it is in the address bar.`;
  }
}

async function restore() {
  const packed = location.hash.match(/^#s=(.+)$/)?.[1];
  if (!packed) return;
  try {
    const { fields, vote, entries: shared } = await unpack(packed);
    for (const [id, value] of Object.entries(fields)) if (FIELDS.includes(id)) $(id).value = value;
    for (const [id, value] of Object.entries(vote)) if (VOTE.includes(id)) $(id).value = value;
    if (shared?.length) {
      entries = shared;
      show();
    }
  } catch {
    $("said").textContent = "";
    $("problem").replaceChildren(h("h2", {}, "The link cannot be read"), h("p", {}, "It is incomplete. Ask the sender for a new link."));
  }
}

function saveJson() {
  const text = JSON.stringify({ vote: chosen(), entries: entries.map((entry) => ({ ...entry, voted: revote(entry.result, chosen()) })) }, null, 2);
  download("credit.json", new Blob([text], { type: "application/json" }));
}

async function savePng() {
  try {
    download("credit.png", await picture($("rollouts")));
  } catch (error) {
    $("said").textContent = `PNG export failed: ${error.message}. Use JSON instead.`;
  }
}
