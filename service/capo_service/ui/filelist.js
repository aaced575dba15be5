// The list of opened files: what was found in each, its bad lines, and its mapping of columns.
import { FIELDS } from "./columns.js";
import { h, number } from "./dom.js";
import { close, files, remap } from "./opened.js";
import { many } from "./words.js";

const FEW = 3; // files; a longer list is folded

/** The list in an element; `progress` is told what is being read. */
export function fileList(root, progress) {
  const bad = files.reduce((total, opened) => total + opened.bad.count, 0);
  const problems = files.filter((opened) => opened.problem).length;
  const words = [many(files.length, "file"), bad && `${many(bad, "line")} could not be read`, problems && `${many(problems, "file")} could not be read`].filter(Boolean).join(", ");
  const chosen = root.dataset.open; // what the reader chose
  const open = chosen ? chosen === "yes" : files.length <= FEW;
  root.hidden = !files.length;
  root.replaceChildren(h("details", { class: "all", open }, h("summary", { onclick: (event) => (root.dataset.open = event.target.parentElement.open ? "no" : "yes") }, words), h("ul", {}, files.map((opened) => item(opened, progress)))));
}

function item(opened, progress) {
  const own = opened.rows.filter((row) => !row.isLabels).length;
  const failed = opened.rows.filter((row) => row.state === "failed").length;
  const found = [
    own && many(own, "rollout"),
    failed && `${failed} failed`,
    opened.metrics.length && `${number(opened.metrics.length)} records of metrics (see Training)`,
    opened.labels && `labels of ${many(opened.labels, "rollout")}`,
  ].filter(Boolean);
  return h("li", {},
    h("strong", {}, opened.name), opened.metrics.length && opened.run !== opened.name ? ` · ${opened.run}` : "", " ", found.join(", ") || (opened.problem ? "" : "nothing that can be shown"), " ",
    h("button", { type: "button", "aria-label": `Close ${opened.name}`, onclick: () => close(opened) }, "Close"),
    opened.problem ? h("p", { class: "note" }, opened.problem) : null,
    badLines(opened.bad),
    opened.mapping ? columns(opened, progress) : null);
}

function badLines({ count, first }) {
  if (!count) return null;
  const rest = count - first.length;
  return h("details", { class: "note" },
    h("summary", {}, `${many(count, "line")} could not be read`),
    h("ul", {}, first.map(({ line, reason }) => h("li", {}, `line ${number(line)}: ${reason}`)), rest > 0 ? h("li", {}, `and ${number(rest)} more`) : null));
}

/** The form that says which column is what; it is open if there is no response. */
function columns(opened, progress) {
  const selects = Object.entries(FIELDS).map(([field, label]) => {
    const select = h("select", {}, h("option", { value: "" }, "none"), opened.columns.map((column) => h("option", { value: column }, column)));
    select.value = opened.mapping[field] ?? "";
    return [field, select, h("label", {}, label, select)];
  });
  const apply = (event) => {
    event.preventDefault();
    remap(opened, Object.fromEntries(selects.filter(([, select]) => select.value).map(([field, select]) => [field, select.value])), progress);
  };
  const used = Object.entries(opened.mapping).map(([field, column]) => `${field.replaceAll("_", " ")}: ${column}`).join(", ");
  return h("details", { class: "mapping", open: !opened.mapping.response },
    h("summary", {}, used ? `Columns: ${used}` : "Columns: choose which column is what"),
    h("form", { "aria-label": `Columns of ${opened.name}`, onsubmit: apply },
      h("div", { class: "settings" }, selects.map(([, , label]) => label), h("button", { type: "submit" }, "Apply"))));
}
