// Reads JSON lines and JSON arrays of any size as a stream; each record is given with its place in
// the file, so that it can be read again later instead of being kept in memory.

const NEWLINE = 10;
const WHOLE = 64 * 2 ** 20; // bytes; a pretty-printed object up to this size is read at once

/** A file that cannot be read at all; the message says what to do. */
export class FileProblem extends Error {}

/**
 * Read the records of a file.
 *
 * @param {File} file
 * @param {object} to
 * @param {(value: object, place: {file: Blob, start: number, end: number}, number: number) => void} to.record
 *   called for each record; `number` is its line, or its position in the array, from 1
 * @param {(number: number, reason: string) => void} to.bad called for each line that is no JSON object
 * @param {(bytes: number) => void} [to.progress] bytes read so far
 * @throws {FileProblem} the file is compressed, or no text
 */
export async function readRecords(file, { record, bad, progress = () => {} }) {
  const head = new Uint8Array(await file.slice(0, 4096).arrayBuffer());
  refuse(head);
  if ((head[0] === 0xff && head[1] === 0xfe) || (head[0] === 0xfe && head[1] === 0xff)) {
    const encoding = head[0] === 0xff ? "utf-16le" : "utf-16be"; // as PowerShell writes
    file = new Blob([new TextDecoder(encoding).decode(await file.arrayBuffer())]);
  }
  const first = new TextDecoder().decode(head).trimStart();
  if (first.startsWith("{") && file.size < WHOLE && (await isOneObject(file, head))) {
    record(parse(await file.text()), { file, start: 0, end: file.size }, 1);
    return;
  }
  const decoder = new TextDecoder();
  let number = 0;
  const emit = (bytes, start, end) => {
    number += 1;
    let value;
    try {
      const text = decoder.decode(bytes);
      if (!text.trim()) return;
      value = parse(text);
    } catch (error) {
      bad(number, `not JSON: ${String(error.message).slice(0, 120)}`);
      return;
    }
    if (value === null || typeof value !== "object" || Array.isArray(value)) bad(number, "not a JSON object");
    else record(value, { file, start, end }, number);
  };
  await split(file, first.startsWith("[") ? arrayElements() : lines(), emit, progress);
}

/** The record at a place; path leads into it. */
export async function readPlace({ file, start, end, path = [] }) {
  return follow(parse(await file.slice(start, end).text()), path);
}

/** A part of a record: by keys, or as a row of columns of equal length ("@", i). */
export function follow(value, path) {
  for (let i = 0; i < path.length; i++) {
    value = path[i] === "@" ? rowOf(value, path[++i]) : value[path[i]];
  }
  return value;
}

export function rowOf(columns, i) {
  return Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, Array.isArray(values) ? values[i] : values]));
}

/** JSON, with the NaN and Infinity that Python writes as null. */
export function parse(text) {
  try {
    return JSON.parse(text.charCodeAt(0) === 0xfeff ? text.slice(1) : text);
  } catch (error) {
    if (!/NaN|Infinity/.test(text)) throw error;
    const plain = text.replace(/"(?:[^"\\]|\\.)*"|-?\bInfinity\b|\bNaN\b/g, (found) => (found.startsWith('"') ? found : "null"));
    return JSON.parse(plain);
  }
}

function refuse(head) {
  const magic = String.fromCharCode(...head.slice(0, 4));
  if (magic === "PAR1") {
    throw new FileProblem("Parquet cannot be read here. Convert it: pandas.read_parquet(name).to_json(new_name, orient=\"records\", lines=True).");
  }
  if (head[0] === 0x1f && head[1] === 0x8b) throw new FileProblem("The file is compressed. Decompress it first (gunzip).");
  if (magic.startsWith("PK")) throw new FileProblem("The file is a zip archive. Unpack it first.");
  if (!head.length) throw new FileProblem("The file is empty.");
}

/** Whether the file is one object over several lines, as JSON is printed for people. */
async function isOneObject(file, head) {
  const end = head.indexOf(NEWLINE);
  try {
    parse(new TextDecoder().decode(end < 0 ? head : head.subarray(0, end)));
    return false;
  } catch {
    if (end < 0 && file.size > head.length) return false;
  }
  try {
    return Boolean(parse(await file.text()));
  } catch {
    return false;
  }
}

/** Cut a file into records. `splitter(bytes, from, length, emit, ended)` returns the bytes it is done with. */
async function split(file, splitter, emit, progress) {
  const reader = file.stream().getReader();
  let held = new Uint8Array(1 << 20);
  let [length, base, read] = [0, 0, 0];
  for (;;) {
    const { done, value } = await reader.read();
    const from = length;
    if (value) {
      if (length + value.length > held.length) {
        const larger = new Uint8Array(Math.max(held.length * 2, length + value.length));
        larger.set(held.subarray(0, length));
        held = larger;
      }
      held.set(value, length);
      length += value.length;
      read += value.length;
    }
    const used = splitter(held, from, length, (start, end) => emit(held.subarray(start, end), base + start, base + end), done);
    held.copyWithin(0, used, length);
    length -= used;
    base += used;
    progress(read);
    if (done) return;
  }
}

function lines() {
  return (bytes, from, length, emit, ended) => {
    let start = 0;
    for (let at = from; ; ) {
      const end = bytes.subarray(0, length).indexOf(NEWLINE, at);
      if (end < 0) break;
      emit(start, end);
      start = at = end + 1;
    }
    if (!ended) return start;
    if (start < length) emit(start, length);
    return length;
  };
}

const [QUOTE, BACKSLASH, COMMA] = [34, 92, 44];
const OPENING = new Set([91, 123]);
const CLOSING = new Set([93, 125]);

/** The elements of a JSON array; what follows the array is emitted as it is. */
function arrayElements() {
  let [depth, quoted, escaped, start] = [0, false, false, -1]; // start of the element, -1 between elements
  return (bytes, from, length, emit, ended) => {
    for (let at = from; at < length; at++) {
      const byte = bytes[at];
      if (quoted) {
        if (escaped) escaped = false;
        else if (byte === BACKSLASH) escaped = true;
        else if (byte === QUOTE) quoted = false;
        continue;
      }
      if (byte <= 32) continue;
      const ends = depth === 1 && (byte === COMMA || CLOSING.has(byte));
      if (ends && start >= 0) {
        emit(start, at);
        start = -1;
      } else if (!ends && start < 0 && (depth > 0 || !OPENING.has(byte))) start = at;
      if (byte === QUOTE) quoted = true;
      else if (OPENING.has(byte)) depth += 1;
      else if (CLOSING.has(byte)) depth -= 1;
    }
    if (ended) {
      if (start >= 0) emit(start, length);
      return length;
    }
    const used = start < 0 ? length : start;
    if (start >= 0) start = 0;
    return used;
  };
}
