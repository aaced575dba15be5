// Tabs, theme and API key; each view has its own module.
import { key, Service } from "./api.js";
import { $ } from "./dom.js";
import * as files from "./files.js";
import * as inspect from "./inspect.js";
import { listen } from "./keys.js";
import * as live from "./live.js";
import * as training from "./training.js";

const VIEWS = ["inspect", "rollouts", "training", "live"];
const started = new Set();

function open(name, focus = false) {
  for (const each of VIEWS) {
    const chosen = each === name;
    $(`tab-${each}`).setAttribute("aria-selected", String(chosen));
    $(`tab-${each}`).tabIndex = chosen ? 0 : -1;
    $(`view-${each}`).hidden = !chosen;
  }
  if (focus) $(`tab-${name}`).focus();
  const present = (entry, vote) => (open("inspect", true), inspect.present(entry, vote));
  if (name === "live") live.start($("view-live"), present);
  if (name === "rollouts" && !started.has(name)) files.start($("view-rollouts"), present);
  if (name === "training" && !started.has(name)) training.start($("view-training"), present);
  started.add(name);
}

function theme() {
  const stored = localStorage.getItem("capo-theme");
  const dark = stored ? stored === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const apply = (isDark) => {
    document.documentElement.dataset.theme = isDark ? "dark" : "light";
    $("theme").textContent = isDark ? "Switch to light" : "Switch to dark"; // the action, not the state
  };
  apply(dark);
  $("theme").addEventListener("click", () => {
    const isDark = document.documentElement.dataset.theme !== "dark";
    localStorage.setItem("capo-theme", isDark ? "dark" : "light");
    apply(isDark);
  });
}

/** Show the judge's name; repeated until the service responds. */
async function showJudge() {
  try {
    const info = await new Service().info();
    $("judge").textContent = `judge ${info.model} · ${info.profile && info.profile !== "default" ? `profile ${info.profile} · ` : ""}${info.critique_style} critiques · ${info.service} ${info.version}`;
    inspect.applyInfo(info);
    return info;
  } catch (error) {
    $("judge").textContent = error.status === 401 ? "An API key is required." : `${error.title}: ${error.message}`;
    if (error.status !== 401) setTimeout(showJudge, 3000);
    return null;
  }
}

/** A link to a rollout of the live view: #r=cr_... */
function followLink() {
  const id = location.hash.match(/^#r=(.+)$/)?.[1];
  if (!id) return;
  let name = id;
  try {
    name = decodeURIComponent(id);
  } catch {
    // Not percent-encoded; as it is.
  }
  live.show(name);
  open("live");
}

theme();
for (const name of VIEWS) {
  $(`tab-${name}`).addEventListener("click", () => open(name));
  $(`tab-${name}`).addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (by) open(VIEWS[(VIEWS.indexOf(name) + by + VIEWS.length) % VIEWS.length], true);
  });
}
$("api-key").value = key.get();
$("api-key").addEventListener("change", () => {
  key.set($("api-key").value);
  showJudge();
});
await showJudge();
await inspect.start();
listen($("help"));
followLink();
addEventListener("hashchange", followLink);
document.documentElement.dataset.ready = "yes";
