// Choosing files: by a picker of files or of a folder, or by drag and drop of both.
import { h } from "./dom.js";

const NAMES = /\.(jsonl?|ndjson)$/i;

/**
 * @param {string} id of the file input
 * @param {string} text what to choose
 * @param {(files: {file: File, name: string}[]) => void} chosen
 */
export function dropZone(id, text, chosen) {
  const pick = (event) => {
    const { files } = event.target;
    chosen(named([...files]));
    event.target.value = ""; // the same file can be chosen again
  };
  const input = h("input", { type: "file", multiple: true, id, onchange: pick });
  const folder = h("input", { type: "file", id: `${id}-folder`, onchange: (event) => chosen(named([...event.target.files]).filter(({ name }) => NAMES.test(name))) });
  folder.webkitdirectory = true;
  const zone = h("div", { class: "drop" },
    h("p", {}, text, " The files are read in this page; they are not uploaded."),
    h("div", { class: "settings" }, h("label", { for: id }, "Files", input), h("label", { for: folder.id }, "Or a folder", folder)));
  for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
    zone.addEventListener(name, async (event) => {
      event.preventDefault();
      zone.classList.toggle("over", over);
      if (name === "drop") chosen(await dropped(event.dataTransfer));
    });
  }
  return zone;
}

const named = (files) => files.map((file) => ({ file, name: file.webkitRelativePath || file.name }));

/** Dropped files, and those in dropped folders. */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return named([...transfer.files]);
  const found = [];
  async function walk(entry, inFolder) {
    if (entry.isFile) {
      const file = await new Promise((done, failed) => entry.file(done, failed));
      if (!inFolder || NAMES.test(file.name)) found.push({ file, name: entry.fullPath.replace(/^\//, "") });
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const batch = await new Promise((done, failed) => reader.readEntries(done, failed)); // at most 100
      if (!batch.length) return;
      for (const inner of batch) await walk(inner, true);
    }
  }
  for (const entry of entries) await walk(entry, false);
  return found;
}
