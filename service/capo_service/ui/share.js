// What leaves the page: a link, JSON, a picture.
import { $, download, h, pack, unpack } from "./dom.js";
import { FIELDS } from "./form.js";
import { picture } from "./picture.js";
import { revote } from "./votes.js";

const VOTE = ["method", "k", "scheme", "w_whole", "w_process", "w_criteria"];
const MAX_LINK = 60_000; // characters; browsers allow more, mail programs do not

/** Put inputs and result into the address, and copy it. */
export async function share(entries) {
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

/** Fill the fields from the address; the results in it, or none. */
export async function restore() {
  const packed = location.hash.match(/^#s=(.+)$/)?.[1];
  if (!packed) return [];
  try {
    const { fields, vote, entries } = await unpack(packed);
    for (const [id, value] of Object.entries(fields)) if (FIELDS.includes(id)) $(id).value = value;
    for (const [id, value] of Object.entries(vote)) if (VOTE.includes(id)) $(id).value = value;
    return entries || [];
  } catch {
    $("said").textContent = "";
    $("problem").replaceChildren(h("h2", {}, "The link cannot be read"), h("p", {}, "It is incomplete. Ask the sender for a new link."));
    return [];
  }
}

export function saveJson(entries, vote) {
  const text = JSON.stringify({ vote, entries: entries.map((entry) => ({ ...entry, voted: revote(entry.result, vote) })) }, null, 2);
  download("credit.json", new Blob([text], { type: "application/json" }));
}

export async function savePng() {
  try {
    download("credit.png", await picture($("shown")));
  } catch (error) {
    $("said").textContent = `PNG export failed: ${error.message}. Use JSON instead.`;
  }
}
