"use strict";
// Batches over time: one lane for each batch at a time, an overview to choose what is seen, and who met whom on hover.

function timelineOf(host) {
  const timeline = report.timeline;
  const [t0, t1] = report.span;
  const view = startingView(timeline, t0, t1);
  const canvas = add(host, "canvas", { tabindex: 0, "aria-label": "Timeline of batches; arrow keys move it, + and - zoom" });
  const at = { hovered: null, drag: null };
  const layout = placed(timeline);
  const loads = runningOver(timeline, t0, t1, 600);
  const left = 8, overview = { top: 14, height: 40 };

  const draw = () => {
    const width = host.clientWidth, ratio = window.devicePixelRatio || 1;
    canvas.style.height = `${layout.height}px`;
    canvas.width = Math.round(width * ratio); canvas.height = Math.round(layout.height * ratio);
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.font = "12px system-ui, sans-serif";
    pen.clearRect(0, 0, width, layout.height);
    const whole = linear(t0, t1, left, width - left), zoomed = linear(view.from, view.to, left, width - left);
    drawOverview(pen, loads, overview, whole, zoomed, view, width);
    for (const device of layout.devices) drawLanes(pen, device, width);
    drawSeconds(pen, zoomed, view, layout.height, width);
    for (const device of layout.devices) drawDevice(pen, device, zoomed, view, width, at.hovered);
    document.getElementById("timeline-span").textContent =
      `${(view.from / 1e6).toFixed(2)} to ${(view.to / 1e6).toFixed(2)} s of ${((t1 - t0) / 1e6).toFixed(1)} s`;
  };
  const show = (from, to) => {
    const span = clamp(to - from, 2000, t1 - t0);
    view.from = clamp(from, t0, t1 - span); view.to = view.from + span;
    draw();
  };
  const zoom = (factor, around) => {
    const centre = around ?? (view.from + view.to) / 2;
    show(centre - (centre - view.from) * factor, centre + (view.to - centre) * factor);
  };
  steer(canvas, { view, show, zoom, draw, at, layout, overview, left, span: [t0, t1] });
  document.getElementById("timeline-in").onclick = () => zoom(0.5);
  document.getElementById("timeline-out").onclick = () => zoom(2);
  document.getElementById("timeline-all").onclick = () => show(t0, t1);
  return draw;
}

/** About 150 batches, where the most run at once. */
function startingView(timeline, t0, t1) {
  const span = clamp((t1 - t0) * 150 / Math.max(1, timeline.shown), 100000, t1 - t0);
  let best = { from: t0, to: t0 + span, load: -1 };
  for (let from = t0; from + span <= t1; from += span / 2) {
    let load = 0;
    for (const device of timeline.devices)
      for (let i = 0; i < device.start.length; i++)
        load += Math.max(0, Math.min(device.start[i] + device.duration[i], from + span) - Math.max(device.start[i], from));
    if (load > best.load) best = { from, to: from + span, load };
  }
  return best;
}

/** Where devices and their lanes lie, from top to bottom. */
function placed(timeline) {
  const lanes = timeline.devices.reduce((sum, device) => sum + device.lanes, 0);
  const laneHeight = lanes > 24 ? 13 : lanes > 4 ? 24 : 36;
  let top = 74;
  const devices = timeline.devices.map(device => {
    const rows = Array.from({ length: device.lanes }, () => []);
    device.lane.forEach((lane, i) => rows[lane].push(i));
    const made = { device, rows, top: top + 20, laneHeight };
    top += 20 + device.lanes * laneHeight + 12;
    return made;
  });
  return { devices, height: top + 26 };
}

/** Batches running at once, averaged over each of `count` equal stretches. */
function runningOver(timeline, t0, t1, count) {
  const sums = new Float64Array(count), step = (t1 - t0) / count;
  for (const device of timeline.devices)
    for (let i = 0; i < device.start.length; i++) {
      const from = device.start[i] - t0, to = from + device.duration[i];
      for (let k = Math.max(0, Math.floor(from / step)); k < count && k * step < to; k++)
        sums[k] += (Math.min(to, (k + 1) * step) - Math.max(from, k * step)) / step;
    }
  return sums;
}

function drawOverview(pen, loads, overview, whole, zoomed, view, width) {
  const most = Math.max(1, ...loads), bottom = overview.top + overview.height;
  const [t0, t1] = report.span;
  pen.fillStyle = themed("--soft");
  pen.fillText("batches at once", whole(t0), overview.top - 3);
  pen.textAlign = "right"; pen.fillText(`up to ${most.toFixed(1)}`, width - 8, overview.top - 3); pen.textAlign = "left";
  pen.fillStyle = themed("--faint");
  pen.globalAlpha = .55;
  pen.beginPath(); pen.moveTo(whole(t0), bottom);
  loads.forEach((load, k) => {
    const x = whole(t0 + k / loads.length * (t1 - t0)), y = bottom - load / most * (overview.height - 4);
    pen.lineTo(x, y); pen.lineTo(whole(t0 + (k + 1) / loads.length * (t1 - t0)), y);
  });
  pen.lineTo(whole(t1), bottom); pen.fill();
  pen.globalAlpha = 1;
  pen.fillStyle = themed("--rule"); pen.fillRect(whole(t0), bottom, whole(t1) - whole(t0), 1);
  const from = whole(view.from), to = Math.max(from + 3, whole(view.to));
  pen.fillStyle = themed("--cool"); pen.globalAlpha = .16; pen.fillRect(from, overview.top, to - from, overview.height);
  pen.globalAlpha = 1;
  pen.fillRect(from - 1, overview.top, 2, overview.height); pen.fillRect(to - 1, overview.top, 2, overview.height);
}

const overlaps = (device, i, j) =>
  device.start[i] < device.start[j] + device.duration[j] && device.start[j] < device.start[i] + device.duration[i];

function drawLanes(pen, { rows, top, laneHeight }, width) {
  pen.fillStyle = themed("--panel");
  rows.forEach((_, lane) => pen.fillRect(0, top + lane * laneHeight + 1, width, laneHeight - 3));
}

function drawDevice(pen, placedDevice, x, view, width, hovered) {
  const { device, rows, top, laneHeight } = placedDevice;
  pen.font = "600 12px system-ui, sans-serif";
  pen.strokeStyle = themed("--page"); pen.lineWidth = 5; pen.strokeText(device.name, 8, top - 7);
  pen.fillStyle = themed("--ink"); pen.fillText(device.name, 8, top - 7);
  pen.font = "12px system-ui, sans-serif";
  const tick = themed("--tick"), ink = themed("--ink");
  pen.save(); pen.beginPath(); pen.rect(0, top, width, device.lanes * laneHeight); pen.clip();
  rows.forEach((row, lane) => {
    const y = top + lane * laneHeight + 1, height = laneHeight - 3;
    for (let k = firstEndingAfter(device, row, view.from); k < row.length; k++) {
      const i = row[k], start = device.start[i];
      if (start > view.to) break;
      const [label, model] = report.classes[device.class[i]];
      const from = x(start), length = Math.max(1, x(start + device.duration[i]) - from);
      const dimmed = hovered ? hovered.device !== device || !overlaps(device, i, hovered.index)
        : focus.model !== null && focus.model !== model;
      pen.globalAlpha = dimmed ? .2 : .88;
      pen.fillStyle = colourOf(model);
      pen.fillRect(from, y, Math.max(.8, length - (length > 4 ? 1 : 0)), height);
      if (length > 14) drawForecast(pen, device, i, x, y, height, tick);
      pen.globalAlpha = dimmed ? .3 : 1;
      if (hovered && hovered.device === device && hovered.index === i) {
        pen.strokeStyle = ink; pen.lineWidth = 2; pen.strokeRect(from, y, length, height);
      }
      if (length > 46 && laneHeight > 16 && !dimmed) drawLabel(pen, label, colourOf(model), Math.max(4, from), y + height / 2 + 4, from + length);
      pen.globalAlpha = 1;
    }
  });
  pen.restore();
}

/** Where it was predicted to end: a line; what went beyond its bound: hatched. */
function drawForecast(pen, device, i, x, y, height, tick) {
  const start = device.start[i], end = start + device.duration[i];
  pen.fillStyle = tick;
  if (device.predicted[i] && device.predicted[i] < device.duration[i]) pen.fillRect(x(start + device.predicted[i]) - .75, y, 1.5, height);
  if (!device.bound[i] || device.bound[i] >= device.duration[i]) return;
  const from = x(start + device.bound[i]), to = x(end);
  pen.save(); pen.beginPath(); pen.rect(from, y, to - from, height); pen.clip();
  pen.strokeStyle = tick; pen.lineWidth = 1.5; pen.beginPath();
  for (let k = from - height; k < to; k += 6) { pen.moveTo(k, y + height); pen.lineTo(k + height, y); }
  pen.stroke(); pen.restore();
}

function drawLabel(pen, label, colour, from, y, to) {
  const room = to - from - 8;
  let text = label.replace(/:(\d+)/, "").replace(" x", " ×");
  if (pen.measureText(text).width > room) text = text.split(" ")[0];
  if (pen.measureText(text).width > room) return;
  pen.strokeStyle = colour; pen.lineWidth = 4; pen.lineJoin = "round"; pen.strokeText(text, from + 4, y);
  pen.fillStyle = inkOn(colour); pen.fillText(text, from + 4, y);
}

function drawSeconds(pen, x, view, height, width) {
  pen.fillStyle = themed("--soft"); pen.textAlign = "center";
  const digits = view.to - view.from < 20000 ? 4 : view.to - view.from < 200000 ? 3 : view.to - view.from < 2e6 ? 2 : 1;
  for (const second of ticks(view.from / 1e6, view.to / 1e6, Math.max(2, width / 110))) {
    const place = x(second * 1e6);
    if (place < 20 || place > width - 40) continue;
    pen.fillStyle = themed("--rule"); pen.fillRect(place, 74, 1, height - 96);
    pen.fillStyle = themed("--soft"); pen.fillText(`${second.toFixed(digits)} s`, place, height - 6);
  }
  pen.textAlign = "left";
}

/** Index in a lane (in order of start, and so of end) of the first batch that ends after an instant. */
function firstEndingAfter(device, row, instant) {
  let low = 0, high = row.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (device.start[row[middle]] + device.duration[row[middle]] < instant) low = middle + 1; else high = middle;
  }
  return low;
}

function hit(layout, view, left, width, px, py) {
  const instant = linear(view.from, view.to, left, width - left).invert(px);
  const slack = (view.to - view.from) / width * 2;
  for (const { device, rows, top, laneHeight } of layout.devices) {
    const row = rows[Math.floor((py - top) / laneHeight)];
    if (!row || py < top) continue;
    const index = row[firstEndingAfter(device, row, instant - slack)];
    if (index !== undefined && device.start[index] <= instant + slack) return { device, index };
  }
  return null;
}

function described({ device, index: i }) {
  const [label, model] = report.classes[device.class[i]];
  const duration = device.duration[i] / 1000, predicted = device.predicted[i] / 1000, bound = device.bound[i] / 1000;
  const rows = [["started", `${(device.start[i] / 1e6).toFixed(4)} s`], ["measured", `<b>${millis(duration)}</b>`]];
  if (predicted) {
    const off = duration / predicted - 1;
    rows.push(["predicted", `${millis(predicted)} (it took ${off < 0 ? percent(-off, 0) + " less" : percent(off, 0) + " more"})`]);
    rows.push(["bound", `${millis(bound)}, ${duration <= bound ? "kept" : "<b>broken</b>"}`]);
  }
  if (device.work[i]) rows.push(["alone", `${millis(device.work[i] / 1000)}, slowed ${times(duration / (device.work[i] / 1000))}`]);
  const beside = [];
  for (let k = 0; k < device.beside[i].length; k += 2) {
    const [other, otherModel] = report.classes[device.beside[i][k]];
    beside.push(`${chip(otherModel)}${escaped(other)} for ${millis(device.beside[i][k + 1] / 1000)}`);
  }
  rows.push(["beside", beside.join("<br>") || "nobody"]);
  return `<b>${chip(model)}${escaped(label)}</b>${pairs(rows)}`;
}

function steer(canvas, its) {
  const { view, layout, at } = its, [t0, t1] = its.span;
  const whole = px => linear(t0, t1, its.left, canvas.clientWidth - its.left).invert(px);
  const perPixel = () => (view.to - view.from) / (canvas.clientWidth - 2 * its.left);
  const inOverview = event => event.offsetY < its.overview.top + its.overview.height + 4;
  canvas.addEventListener("pointerdown", event => {
    canvas.setPointerCapture(event.pointerId);
    at.drag = { x: event.offsetX, from: view.from, to: view.to, brush: inOverview(event), moved: false };
    tooltip.hide();
  });
  canvas.addEventListener("pointermove", event => {
    const drag = at.drag;
    if (!drag) return look(event);
    drag.moved ||= Math.abs(event.offsetX - drag.x) > 3;
    if (!drag.moved) return;
    if (drag.brush) its.show(Math.min(whole(drag.x), whole(event.offsetX)), Math.max(whole(drag.x), whole(event.offsetX)));
    else its.show(drag.from - (event.offsetX - drag.x) * perPixel(), drag.to - (event.offsetX - drag.x) * perPixel());
  });
  canvas.addEventListener("pointerup", event => {
    const drag = at.drag;
    at.drag = null;
    if (drag && drag.brush && !drag.moved) {
      const half = (view.to - view.from) / 2;
      its.show(whole(event.offsetX) - half, whole(event.offsetX) + half);
    }
  });
  canvas.addEventListener("pointerleave", () => { tooltip.hide(); if (at.hovered) { at.hovered = null; its.draw(); } });
  canvas.addEventListener("dblclick", () => its.show(t0, t1));
  canvas.addEventListener("wheel", event => {
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      its.zoom(Math.exp(clamp(event.deltaY, -80, 80) / 200), view.from + (event.offsetX - its.left) * perPixel());
    } else if (Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey) {
      event.preventDefault();
      const shift = (event.deltaX || event.deltaY) * perPixel();
      its.show(view.from + shift, view.to + shift);
    }
  }, { passive: false });
  canvas.addEventListener("keydown", event => {
    const step = (view.to - view.from) / 4;
    const moves = { ArrowLeft: () => its.show(view.from - step, view.to - step), "+": () => its.zoom(0.5), "-": () => its.zoom(2),
      ArrowRight: () => its.show(view.from + step, view.to + step), Home: () => its.show(t0, t1) };
    if (moves[event.key]) { event.preventDefault(); moves[event.key](); }
  });
  const look = event => {
    const found = hit(layout, view, its.left, canvas.clientWidth, event.offsetX, event.offsetY);
    const changed = found?.device !== at.hovered?.device || found?.index !== at.hovered?.index;
    at.hovered = found;
    if (changed) its.draw();
    if (found) tooltip.show(event, described(found)); else tooltip.hide();
  };
}

const timelineHost = document.getElementById("timeline");
if (timelineHost) figures.push(timelineOf(timelineHost));
