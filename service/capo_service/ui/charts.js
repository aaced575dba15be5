// Small line charts as SVG, with a text alternative.
import { h, number } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [280, 130, 44, 8, 18, 22];
export const COLORS = 8; // classes series-0 to series-7

function s(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/**
 * A chart.
 *
 * @param {object} options
 * @param {string} options.title
 * @param {{name: string, points: [number, number | null][], raw?: [number, number | null][], color?: number, dashed?: boolean}[]} options.series
 *   null y for gaps; `raw`: the values before smoothing, drawn faintly
 * @param {string} [options.unit] of y, at the axis; "%" shows shares as percentages
 * @param {number | null} [options.floor] lower end of the y axis; null: the least value
 * @param {number | null} [options.ceiling] upper end
 * @param {(x: number) => string} [options.xLabel]
 * @param {string} [options.xName] what x is
 * @param {boolean} [options.log] logarithmic y axis; values that are not positive are left out
 */
export function lineChart({ title, series, unit = "", floor = null, ceiling = null, xLabel = String, xName = "", log = false }) {
  const drawn = series.map((each, i) => ({ color: i, dashed: false, ...each, points: drawable(each.points, log), raw: drawable(each.raw || [], log) }));
  const points = drawn.flatMap((each) => [...each.points, ...each.raw]).filter(([, y]) => y !== null);
  const latest = drawn
    .map((each) => {
      const value = each.points.findLast(([, y]) => y !== null)?.[1];
      const words = value === undefined ? "no data" : withUnit(value, series.length > 1 && unit !== "%" ? "" : unit);
      return series.length > 1 ? `${each.name} ${words}` : words;
    })
    .join(", ");
  const svg = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}: ${latest}` });
  if (points.length) draw(svg, drawn, points, { unit, floor, ceiling, xLabel, xName, log });
  const legend = series.length > 1
    ? h("ul", { class: "legend" }, drawn.map((each) => h("li", { class: `series-${each.color % COLORS}${each.dashed ? " dashed" : ""}` }, each.name)))
    : null;
  const shown = series.length > 2 ? null : h("strong", {}, latest);
  return h("figure", { class: "chart" }, h("figcaption", {}, h("span", {}, title), shown), svg, legend);
}

/** With null for what cannot be drawn: no number, or not positive on a logarithmic axis. */
const drawable = (points, log) => points.map(([x, y]) => [x, Number.isFinite(y) && (!log || y > 0) ? y : null]);

function withUnit(value, unit) {
  if (unit === "%") return `${number(value * 100, 1)}%`;
  return `${number(value, Math.abs(value) < 1 ? 4 : 2)}${unit ? (unit.startsWith("/") ? unit : ` ${unit}`) : ""}`;
}

/** A short number; values within rounding error of 0 are 0. */
function tick(value, unit) {
  const shown = unit === "%" ? value * 100 : value;
  if (Math.abs(shown) < 1e-9) return "0";
  if (Math.abs(shown) < 0.001) return shown.toExponential(1);
  const options = Math.abs(shown) >= 10_000 ? { notation: "compact", maximumSignificantDigits: 3 } : { maximumSignificantDigits: 3 };
  return shown.toLocaleString("en", options);
}

/** [least, greatest] without spreading, as there may be many points. */
export function range(values) {
  let [least, most] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < least) least = value;
    if (value > most) most = value;
  }
  return [least, most];
}

function draw(svg, series, points, { unit, floor, ceiling, xLabel, xName, log }) {
  const [x0, x1] = range(points.map(([x]) => x));
  const [least, most] = range(points.map(([, y]) => y));
  let [y0, y1] = log ? [least, most] : [floor ?? least, ceiling ?? most];
  if (log && y1 / y0 < 1.01) [y0, y1] = [y0 / 2, y1 * 2];
  if (!log && y1 - y0 < 1e-9) [y0, y1] = [y0 - (floor === null ? 0.5 : 0), y1 + 0.5];
  const scale = log ? Math.log10 : (y) => y;
  const px = (x) => LEFT + ((x - x0) / Math.max(x1 - x0, 1e-9)) * (WIDTH - LEFT - RIGHT);
  const py = (y) => HEIGHT - BOTTOM - ((scale(y) - scale(y0)) / (scale(y1) - scale(y0))) * (HEIGHT - TOP - BOTTOM);
  for (const y of [y0, log ? Math.sqrt(y0 * y1) : (y0 + y1) / 2, y1]) {
    svg.append(s("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: py(y), y2: py(y), class: "grid" }));
    svg.append(s("text", { x: LEFT - 4, y: py(y) + 3, class: "tick end" }, tick(y, unit)));
  }
  if (unit || log) svg.append(s("text", { x: 2, y: 9, class: "tick" }, [unit.startsWith("/") ? `per ${unit.slice(1)}` : unit, log ? "log" : ""].filter(Boolean).join(", ")));
  svg.append(s("text", { x: LEFT, y: HEIGHT - 6, class: "tick" }, xLabel(x0)));
  svg.append(s("text", { x: WIDTH - RIGHT, y: HEIGHT - 6, class: "tick end" }, xLabel(x1)));
  if (xName) svg.append(s("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 6, class: "tick middle" }, xName));
  for (const each of series) {
    const color = `series-${each.color % COLORS}`;
    if (each.raw.length) svg.append(s("path", { d: path(each.raw, px, py), class: `line faint ${color}` }));
    svg.append(s("path", { d: path(each.points, px, py), class: `line ${color}${each.dashed ? " dashed" : ""}` }));
    if (each.points.length > 40) continue;
    for (const [x, y] of each.points) {
      if (y === null) continue;
      const dot = s("circle", { cx: px(x), cy: py(y), r: 2, class: `dot ${color}` });
      dot.append(s("title", {}, `${each.name}, ${xLabel(x)}: ${withUnit(y, unit)}`));
      svg.append(dot);
    }
  }
}

function path(points, px, py) {
  let d = "";
  let pen = "M";
  for (const [x, y] of points) {
    if (y === null) {
      pen = "M";
      continue;
    }
    d += `${pen}${px(x).toFixed(1)},${py(y).toFixed(1)}`;
    pen = "L";
  }
  return d;
}
