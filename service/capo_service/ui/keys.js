// Keys of the page. A module binds its own; `?` lists them all. A key pressed in a field is text.
import { h } from "./dom.js";

const bound = []; // {keys, label, run}
let dialog = null;

/**
 * Bind keys, which the help lists.
 *
 * @param {string} keys one or several, with blanks between: "j", "1 2 3"
 * @param {string} label what they do, for the help
 * @param {((event: KeyboardEvent) => void) | null} run null: another listener acts on them
 */
export function bind(keys, label, run) {
  bound.push({ keys: keys.split(" "), label, run });
}

/** Move the focus among elements that are visible, forwards (1) or backwards (-1). */
export function step(selector, by) {
  const all = [...document.querySelectorAll(selector)].filter((each) => each.offsetParent !== null);
  if (!all.length) return;
  const now = all.findIndex((each) => each.contains(document.activeElement));
  const next = now < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(Math.max(now + by, 0), all.length - 1);
  all[next].focus();
  all[next].scrollIntoView({ block: "nearest" });
}

function help() {
  dialog ??= h("dialog", { class: "help", "aria-labelledby": "help-title" });
  dialog.replaceChildren(
    h("h2", { id: "help-title" }, "Keys"),
    h("dl", {}, bound.map(({ keys, label }) => h("div", {}, h("dt", {}, keys.map((key) => h("kbd", {}, key))), h("dd", {}, label)))),
    h("form", { method: "dialog" }, h("button", { class: "main", autofocus: true }, "Close")),
  );
  document.body.append(dialog);
  dialog.showModal();
}

const TEXT = "textarea, select, [contenteditable], input:not([type=checkbox], [type=radio], [type=button], [type=file])";

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || dialog?.open) return;
  if (event.target instanceof Element && event.target.closest(TEXT)) return;
  const found = bound.find(({ keys, run }) => run && keys.includes(event.key));
  if (!found) return;
  event.preventDefault();
  found.run(event);
}

/** Listen to keys, and open the help from a button too. */
export function listen(button) {
  bind("?", "this list", help);
  button.addEventListener("click", help);
  document.addEventListener("keydown", pressed);
}
