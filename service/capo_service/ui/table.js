// A table of rollouts with search, filters, sorting and pages; a row opens in a rollout's view.
import { h, number } from "./dom.js";
import { openRollout } from "./detail.js";
import { matching, NO_QUERY, SHOWN, sorted } from "./query.js";

const PAGE = 50;
const SNIPPET = 140; // characters of a question in the table
const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");

// [column, heading, cell, whether it is shown although no row has a value]
const COLUMNS = [
  ["time", "time", (row) => clock(row.time)],
  ["key", "key", (row) => row.key],
  ["run", "run", (row) => row.run ?? "–"],
  ["step", "training step", (row) => number(row.step, 0)],
  ["question", "question", (row) => snippet(row.question || row.response), true],
  ["outcome", "outcome", (row) => number(row.outcome), true],
  ["reward", "reward", (row) => number(row.reward), true],
  ["steps", "steps", (row) => number(row.steps)],
  ["wrong", "wrong", (row) => number(row.wrong)],
  ["agreement", "agreement", (row) => (row.agreement === null ? "–" : `${Math.round(row.agreement * 100)}%`)],
  ["flags", "reward-hacking flags", (row) => row.flags.map((flag) => flag.replaceAll("_", " ")).join(", ") || "–"],
  ["tokens", "tokens", (row) => number(row.tokens, 0)],
  ["characters", "characters", (row) => number(row.response.length, 0), true],
];

function snippet(text) {
  return text.length > SNIPPET ? `${text.slice(0, SNIPPET)}…` : text;
}

/**
 * A table in an element.
 *
 * @param {HTMLElement} root
 * @param {object} options
 * @param {string} options.label accessible name
 * @param {(entry: object, vote: object) => void} options.inspect shows a rollout in the Inspect view
 * @param {(rows: import("./rows.js").Row[]) => void} [options.changed] called with the rows that match the filters
 * @param {(row: import("./rows.js").Row) => string | null} [options.link] a permanent link to a row
 * @param {(isOpen: boolean) => void} [options.reading] called when a rollout is opened, and when the list is back
 * @returns {{show: (rows: import("./rows.js").Row[]) => void, open: (row: import("./rows.js").Row) => void, selected: Set}}
 */
export function rolloutTable(root, { label, inspect, changed = () => {}, link = () => null, reading = () => {} }) {
  const query = { ...NO_QUERY };
  let [rows, found, page, column, descending] = [[], [], 0, "", false];
  let detail = null;
  const selected = new Set();
  const controls = filters(query, () => ((page = 0), update()));
  const count = h("p", { role: "status", class: "count-of-rows" });
  const body = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label });
  const pages = h("nav", { class: "pages", "aria-label": `Pages of ${label}` });
  const list = h("div", {}, controls.element, count, body, pages);
  const opened = h("div", { hidden: true });
  root.replaceChildren(list, opened);

  function update() {
    found = sorted(matching(rows, query), column, descending);
    page = Math.min(page, Math.max(Math.ceil(found.length / PAGE) - 1, 0));
    draw();
    changed(found);
  }

  function draw() {
    const from = page * PAGE;
    const shown = found.slice(from, from + PAGE);
    const columns = COLUMNS.filter(([name, , , always]) => always || isWorthShowing(name));
    count.textContent = found.length === rows.length ? `${number(rows.length)} rollouts` : `${number(found.length)} of ${number(rows.length)} rollouts`;
    body.replaceChildren(h("table", { class: "list" }, h("thead", {}, h("tr", {}, selecting(shown), head("id", "id"), columns.map(([name, text]) => head(name, text)))), h("tbody", {}, shown.map((row, i) => line(row, from + i, columns)))));
    if (!shown.length) body.append(h("p", { class: "none" }, rows.length ? "No rollout matches the filters." : "No rollouts yet."));
    pages.hidden = found.length <= PAGE;
    pages.replaceChildren(
      h("button", { type: "button", disabled: page === 0, onclick: () => turn(-1) }, "Previous page"),
      h("span", {}, `rollouts ${number(from + 1)} to ${number(from + shown.length)} of ${number(found.length)}`),
      h("button", { type: "button", disabled: from + PAGE >= found.length, onclick: () => turn(1) }, "Next page"),
    );
  }

  /** Whether a row has a value; of runs and keys, whether there are several. */
  function isWorthShowing(name) {
    if (name === "flags") return rows.some((row) => row.flags.length);
    if (name === "run" || name === "key") return new Set(rows.map((row) => row[name])).size > 1;
    return rows.some((row) => row[name] !== null);
  }

  function turn(by) {
    page += by;
    draw();
    body.scrollIntoView({ block: "nearest" });
  }

  function head(name, text) {
    const order = column === name ? (descending ? "descending" : "ascending") : null;
    const sort = () => {
      descending = column === name ? !descending : !["id", "question", "time", "step"].includes(name);
      column = name;
      page = 0;
      update();
    };
    return h("th", { scope: "col", "aria-sort": order }, h("button", { type: "button", class: "sort", onclick: sort }, text, h("span", { "aria-hidden": "true" }, order ? (descending ? " ↓" : " ↑") : "")));
  }

  /** The box that selects the rows of this page. */
  function selecting(shown) {
    const toggle = (event) => {
      for (const row of shown) event.target.checked ? selected.add(row) : selected.delete(row);
      draw();
      changed(found);
    };
    return h("th", { scope: "col" }, h("input", { type: "checkbox", "aria-label": "Select this page", checked: shown.length > 0 && shown.every((row) => selected.has(row)), onchange: toggle }));
  }

  function line(row, index, columns) {
    const toggle = (event) => (event.target.checked ? selected.add(row) : selected.delete(row), changed(found));
    const cells = columns.map(([name, , cell]) => h("td", { "data-column": name, class: name === "question" ? "text" : name === "wrong" && row.wrong ? "bad" : null }, cell(row)));
    const name = `Open ${row.id}`;
    return h("tr", { class: row.state.replace(" ", "-") },
      h("td", {}, h("input", { type: "checkbox", "aria-label": `Select ${row.id}`, checked: selected.has(row), onchange: toggle })),
      h("td", {}, h("button", { type: "button", class: "open", title: name, "aria-label": name, onclick: () => open(index) }, snippet(row.id).slice(0, 40) || "open"), row.error ? h("span", { class: "sr" }, row.error) : null),
      cells);
  }

  function open(index) {
    list.hidden = true;
    opened.hidden = false;
    reading(true);
    const back = () => {
      detail = null;
      reading(false);
      opened.hidden = true;
      opened.replaceChildren();
      list.hidden = false;
      page = Math.floor(index / PAGE);
      update();
      body.querySelectorAll("button.open")[index % PAGE]?.focus();
    };
    detail = openRollout(opened, { rows: found, index, inspect, back, link, moved: (to) => (index = to) });
  }

  return {
    selected,
    /** Show these rows; an opened rollout stays open. */
    show(given) {
      rows = given;
      const kept = new Set(rows);
      for (const row of selected) if (!kept.has(row)) selected.delete(row);
      controls.offer(rows);
      if (!detail) update();
    },
    close: () => detail?.back(),
    open(row) {
      Object.assign(query, NO_QUERY);
      controls.offer(rows);
      update();
      const index = found.indexOf(row);
      if (index >= 0) open(index);
    },
    /** Filter by text, as the search field does. */
    search(text) {
      query.text = text;
      controls.offer(rows);
      update();
    },
  };
}

/** The form of filters; `offer` fills the choices from the rows, and shows those that can choose anything. */
function filters(query, changed) {
  let timer = null;
  const later = (name) => (event) => {
    query[name] = event.target.value;
    clearTimeout(timer);
    timer = setTimeout(changed, 200); // a search of 100 MB takes a moment
  };
  const now = (name) => (event) => ((query[name] = event.target.value), changed());
  const text = h("input", { type: "search", name: "text", placeholder: "question, response or id", oninput: later("text") });
  const shown = h("select", { name: "shown", onchange: now("shown") }, Object.entries(SHOWN).map(([value, [name]]) => h("option", { value }, name)));
  const flag = h("select", { name: "flag", onchange: now("flag") });
  const agreement = h("input", { type: "number", name: "agreement", min: 0.5, max: 1, step: 0.05, placeholder: "any", oninput: later("agreement") });
  const run = h("select", { name: "run", onchange: now("run") });
  const key = h("select", { name: "key", onchange: now("key") });
  const step = h("input", { type: "number", name: "step", min: 0, placeholder: "any", oninput: later("step") });
  const labelled = Object.entries({ Search: text, Show: shown, Flags: flag, "Agreement below": agreement, Run: run, Key: key, "Training step": step })
    .map(([name, input]) => [name, input, h("label", { class: name === "Search" || name === "Show" ? "wide" : null }, name, input)]);
  const element = h("form", { class: "settings", role: "search", onsubmit: (event) => event.preventDefault() }, labelled.map(([, , item]) => item));

  function choices(select, name, values, first) {
    const all = [...new Set(values)].filter((value) => value !== null).sort();
    if (document.activeElement !== select) select.replaceChildren(...first.map(([value, words]) => h("option", { value }, words)), ...all.map((value) => h("option", { value }, value.replaceAll("_", " "))));
    if (!all.includes(query[name]) && !first.some(([value]) => value === query[name])) query[name] = "";
    select.value = query[name];
    select.parentElement.hidden = all.length < (name === "flag" ? 1 : 2);
  }

  return {
    element,
    offer(rows) {
      text.value = query.text;
      shown.value = query.shown;
      if (document.activeElement !== agreement) agreement.value = query.agreement;
      choices(flag, "flag", rows.flatMap((row) => row.flags), [["", "any or none"], ["any", "any flag"]]);
      choices(run, "run", rows.map((row) => row.run), [["", "all"]]);
      choices(key, "key", rows.map((row) => row.key), [["", "all"]]);
      agreement.parentElement.hidden = !rows.some((row) => row.agreement !== null);
      const steps = rows.map((row) => row.step).filter((each) => each !== null);
      const [least, most] = steps.reduce(([a, b], each) => [Math.min(a, each), Math.max(b, each)], [Infinity, -Infinity]);
      step.parentElement.hidden = !(most > least);
      step.placeholder = most > least ? `${least} to ${most}` : "any";
    },
  };
}
