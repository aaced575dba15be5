// Exports a part of the page as PNG: an SVG with a copy of it is drawn on a canvas.

export async function picture(element) {
  const width = Math.ceil(element.scrollWidth) + 32;
  const height = Math.ceil(element.scrollHeight) + 96;
  const css = await (await fetch("ui/style.css")).text();
  const copy = element.cloneNode(true);
  const theme = document.documentElement.dataset.theme || "light";
  const inside = new XMLSerializer().serializeToString(copy);
  // The copy has no :root element; its variables move to the outermost element.
  const size = parseFloat(getComputedStyle(document.documentElement).fontSize);
  const sized = css.replace(/([\d.]+)rem/g, (_, value) => `${value * size}px`); // a rem would be the picture's own, 16 px
  const rules = sized.replaceAll(':root[data-theme="dark"]', '.root[data-theme="dark"]').replaceAll(":root", ".root");
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}"><foreignObject width="100%" height="100%">`
    + `<div xmlns="http://www.w3.org/1999/xhtml" class="root" data-theme="${theme}"><style>${rules.replaceAll("<", "&lt;").replaceAll("&", "&amp;")}</style>`
    + `<div style="padding:16px;background:var(--paper);color:var(--ink);width:${width}px;height:${height}px">${inside}</div></div></foreignObject></svg>`;
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const scale = Math.min(2, 16_000 / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = width * scale;
  canvas.height = height * scale;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  context.drawImage(image, 0, 0);
  return await new Promise((done, failed) => canvas.toBlob((blob) => (blob ? done(blob) : failed(new Error("the browser cannot draw it"))), "image/png"));
}
