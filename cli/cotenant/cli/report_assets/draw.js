"use strict";
// Scales, axes, marks and the tooltip; everything that all figures share.

const report = JSON.parse(document.getElementById("report-numbers").textContent);

// Okabe and Ito's colours, which colour-blind readers can tell apart, and four more for crowded reports; lighter where
// the page is dark.
const PALETTES = {
  light: ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8F7F00", "#7A5BC7", "#6C7A89", "#A3464E",
    "#3E8E9E", "#B58B5B"],
  dark: ["#3D9BE0", "#F0AE1E", "#22BC92", "#E08FBD", "#8CCBF2", "#F27A2C", "#C2B02A", "#A78BEA", "#9AA7B5", "#D9737B",
    "#62B5C4", "#D1AB7F"],
};
const colourOf = model => {
  const palette = PALETTES[document.documentElement.dataset.theme] || PALETTES.light;
  return palette[model % palette.length];
};
// Text on one of these colours: dark on the light ones, by WCAG's relative luminance.
const inkOn = colour => {
  const [r, g, b] = [1, 3, 5].map(k => parseInt(colour.slice(k, k + 2), 16) / 255)
    .map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b > .26 ? "#14181d" : "#ffffff";
};
const nameOf = model => report.models[model];
const focus = { model: null };
const figures = [];

const themed = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const escaped = text => String(text).replace(/[&<>"]/g, c => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" }[c]));
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}%`;
const times = value => `${value.toFixed(2)}×`;

/** A duration in ms for people: three digits that count. */
function millis(ms) {
  if (ms >= 10000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms >= 100) return `${ms.toFixed(0)} ms`;
  if (ms >= 10) return `${ms.toFixed(1)} ms`;
  return ms >= 0.1 ? `${ms.toFixed(2)} ms` : `${(1000 * ms).toFixed(0)} µs`;
}

/** Adds an SVG element. */
function mark(parent, name, attributes = {}, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.appendChild(made);
  return made;
}

/** Adds an HTML element. */
function add(parent, name, attributes = {}, text) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.appendChild(made);
  return made;
}

/** Maps [low, high] to [from, to]; `invert` maps back. */
function linear(low, high, from, to) {
  const scale = value => from + (value - low) / (high - low || 1) * (to - from);
  scale.invert = place => low + (place - from) / (to - from || 1) * (high - low);
  return scale;
}

/** Round numbers between low and high, about `count` of them. */
function ticks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough || 1));
  const step = [1, 2, 2.5, 5, 10].map(m => m * power).find(s => s >= rough) || power;
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(+(k * step).toPrecision(12));
  return found;
}

/** An SVG of the host's width with the margins as a group in it. */
function canvasOf(host, height, margin) {
  host.replaceChildren();
  const width = Math.max(260, host.clientWidth);
  const svg = mark(host, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  return { svg, width, height, left: margin.left, right: width - margin.right, top: margin.top, bottom: height - margin.bottom };
}

/** A horizontal axis at the bottom with grid lines and a label. */
function axisX(area, scale, values, format, label) {
  for (const value of values) {
    const x = scale(value);
    mark(area.svg, "line", { class: "grid", x1: x, x2: x, y1: area.top, y2: area.bottom });
    mark(area.svg, "text", { x, y: area.bottom + 16, "text-anchor": "middle" }, format(value));
  }
  mark(area.svg, "line", { class: "axis", x1: area.left, x2: area.right, y1: area.bottom, y2: area.bottom });
  if (label) mark(area.svg, "text", { x: area.right, y: area.bottom + 33, "text-anchor": "end" }, label);
}

/** A vertical axis on the left with grid lines; its label stands above it. */
function axisY(area, scale, values, format, label) {
  for (const value of values) {
    const y = scale(value);
    mark(area.svg, "line", { class: "grid", x1: area.left, x2: area.right, y1: y, y2: y });
    mark(area.svg, "text", { x: area.left - 7, y: y + 4, "text-anchor": "end" }, format(value));
  }
  if (label) mark(area.svg, "text", { x: 0, y: area.top - 10 }, label);
}

/** The path of a line through points, broken where one is null. */
function line(points) {
  let path = "", pen = "M";
  for (const point of points) {
    if (point === null) { pen = "M"; continue; }
    path += `${pen}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
    pen = "L";
  }
  return path;
}

/** Points as one path of round dots for each model, which stays quick with thousands of them. */
function dots(svg, points, style = "") {
  const paths = new Map();
  for (const [x, y, model] of points) paths.set(model, (paths.get(model) || "") + `M${x.toFixed(1)} ${y.toFixed(1)}h0`);
  for (const [model, d] of paths) mark(svg, "path", { class: `dots series m${model}`, d, stroke: colourOf(model), style });
}

const tooltip = {
  box: document.getElementById("tooltip"),
  show(event, content) {
    this.box.innerHTML = content;
    this.box.hidden = false;
    const { width, height } = this.box.getBoundingClientRect();
    const beside = event.clientX + 16 + width > innerWidth ? event.clientX - 16 - width : event.clientX + 16;
    this.box.style.left = `${clamp(beside, 4, innerWidth - width - 4)}px`;
    this.box.style.top = `${clamp(event.clientY + 14, 4, innerHeight - height - 4)}px`;
  },
  hide() { this.box.hidden = true; },
};
const chip = model => `<span class="chip" style="background:${colourOf(model)}"></span>`;
const pairs = rows => `<table>${rows.map(([k, v]) => `<tr><td>${k}</td><td>${v}</td></tr>`).join("")}</table>`;

/** Shows what `content(point)` tells of the point nearest to the pointer, within 24 pixels. */
function hover(area, points, content) {
  const halo = mark(area.svg, "circle", { r: 5, fill: "none", stroke: "var(--ink)", "stroke-width": 1.5, visibility: "hidden" });
  const away = () => { halo.setAttribute("visibility", "hidden"); tooltip.hide(); };
  area.svg.addEventListener("pointermove", event => {
    const box = area.svg.getBoundingClientRect();
    const px = (event.clientX - box.left) / box.width * area.width, py = (event.clientY - box.top) / box.height * area.height;
    let best = null, least = 24 * 24;
    for (const point of points) {
      if (focus.model !== null && point[2] !== focus.model) continue;
      const distance = (point[0] - px) ** 2 + (point[1] - py) ** 2;
      if (distance < least) { least = distance; best = point; }
    }
    if (!best) return away();
    halo.setAttribute("cx", best[0]); halo.setAttribute("cy", best[1]); halo.setAttribute("visibility", "visible");
    tooltip.show(event, content(best[3]));
  });
  area.svg.addEventListener("pointerleave", away);
}

/** Registers a figure that draws itself into an element, now and whenever its width or the theme changes. */
function figure(id, draw) {
  const host = document.getElementById(id);
  if (host) figures.push(() => draw(host));
}
