// Small line charts as SVG, with a text alternative.
import { h, number } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [280, 120, 40, 8, 10, 22];

function s(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/**
 * A chart. series: [{name, points: [[x, y], ...]}], null y for gaps. floor and ceiling fix the axis.
 */
export function lineChart({ title, series, unit = "", floor = null, ceiling = null, xLabel = String }) {
  const points = series.flatMap((each) => each.points).filter(([, y]) => y !== null);
  const latest = series
    .map((each) => {
      const known = each.points.filter(([, y]) => y !== null);
      const value = known.length ? number(known.at(-1)[1], 3) + unit : "no data";
      return series.length > 1 ? `${each.name} ${value}` : value;
    })
    .join(", ");
  const svg = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}: ${latest}` });
  if (points.length) draw(svg, series, points, floor, ceiling, xLabel);
  const legend = series.length > 1
    ? h("ul", { class: "legend" }, series.map((each, i) => h("li", { class: `series-${i}` }, each.name)))
    : null;
  return h("figure", { class: "chart" }, h("figcaption", {}, h("span", {}, title), h("strong", {}, latest)), svg, legend);
}

/** A short number; values within rounding error of 0 are 0. */
function tick(value) {
  return Math.abs(value) < 1e-9 ? "0" : value.toLocaleString("en", { maximumSignificantDigits: 3 });
}

function draw(svg, series, points, floor, ceiling, xLabel) {
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y);
  const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  let y0 = floor ?? Math.min(...ys);
  let y1 = ceiling ?? Math.max(...ys);
  if (y1 - y0 < 1e-9) [y0, y1] = [y0 - (floor === null ? 0.5 : 0), y1 + 0.5];
  const px = (x) => LEFT + ((x - x0) / Math.max(x1 - x0, 1e-9)) * (WIDTH - LEFT - RIGHT);
  const py = (y) => HEIGHT - BOTTOM - ((y - y0) / (y1 - y0)) * (HEIGHT - TOP - BOTTOM);
  for (const y of [y0, (y0 + y1) / 2, y1]) {
    svg.append(s("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: py(y), y2: py(y), class: "grid" }));
    svg.append(s("text", { x: LEFT - 4, y: py(y) + 3, class: "tick end" }, tick(y)));
  }
  svg.append(s("text", { x: LEFT, y: HEIGHT - 6, class: "tick" }, xLabel(x0)));
  svg.append(s("text", { x: WIDTH - RIGHT, y: HEIGHT - 6, class: "tick end" }, xLabel(x1)));
  series.forEach((each, i) => {
    let path = "";
    let pen = "M";
    for (const [x, y] of each.points) {
      if (y === null) {
        pen = "M";
        continue;
      }
      path += `${pen}${px(x).toFixed(1)},${py(y).toFixed(1)}`;
      pen = "L";
    }
    svg.append(s("path", { d: path, class: `line series-${i}` }));
    if (each.points.length <= 40) {
      for (const [x, y] of each.points) {
        if (y !== null) svg.append(s("circle", { cx: px(x), cy: py(y), r: 2, class: `dot series-${i}` }));
      }
    }
  });
}
