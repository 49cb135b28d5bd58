"use strict";
// The figures about requests, forecasts and pairs, and what makes them one page: legend, theme, printing.

/** Latencies as shares of all that was offered, one panel a model. */
figure("latency", host => {
  host.replaceChildren();
  const offering = report.counts.map((_, model) => model).filter(model => report.counts[model].offered);
  const panels = offering.map(model => {  // all of them first: how many there are decides how wide each is
    const cell = add(host, "div", { class: `series m${model}` });
    add(cell, "h3").innerHTML = `${chip(model)}${escaped(nameOf(model))}`;
    return add(cell, "div");
  });
  offering.forEach((model, k) => {
    const values = report.latency[model] || [];
    const { offered, answered, in_time, refused, failed, slo_ms } = report.counts[model];
    const area = canvasOf(panels[k], 190, { left: 40, right: 10, top: 12, bottom: 36 });
    const most = Math.max(slo_ms * 1.25, values.length ? values[Math.floor(values.length * .99)] * 1.05 : 0, 1);
    const x = linear(0, most, area.left, area.right), y = linear(0, 1, area.bottom, area.top);
    axisY(area, y, [0, .25, .5, .75, 1], v => `${100 * v}%`);
    axisX(area, x, ticks(0, most, 5), v => `${v}`, "ms from the intended send time");
    const share = i => (1 + i * (answered - 1) / Math.max(1, values.length - 1)) / offered;
    const points = values.filter(v => v <= most).map((v, i) => [x(v), y(share(i))]);
    if (points.length) {
      const path = line([[points[0][0], y(0)], ...points]);
      mark(area.svg, "path", { d: `${path}L${points.at(-1)[0]} ${y(0)}Z`, fill: colourOf(model), opacity: .13 });
      mark(area.svg, "path", { class: "curve", d: path, stroke: colourOf(model) });
    }
    const aside = [refused ? `${percent(refused / offered)} refused` : "", failed ? `${percent(failed / offered)} failed` : ""];
    const text = aside.filter(Boolean).join(", ");
    if (slo_ms) {
      mark(area.svg, "line", { class: "limit", x1: x(slo_ms), x2: x(slo_ms), y1: area.top - 4, y2: area.bottom });
      const before = x(slo_ms) > area.width * .55;
      const place = { x: x(slo_ms) + (before ? -7 : 7), "text-anchor": before ? "end" : "start" };
      mark(area.svg, "text", { ...place, y: area.bottom - 40, class: "strong" }, `${in_time < offered ? percent(Math.floor(1000 * in_time / offered) / 1000) : "100%"} in time`);
      mark(area.svg, "text", { ...place, y: area.bottom - 24 }, `SLO ${slo_ms} ms`);
      if (text) mark(area.svg, "text", { ...place, y: area.bottom - 8 }, text);
    } else if (text) mark(area.svg, "text", { x: area.right, y: area.bottom - 8, "text-anchor": "end" }, text);
  });
});

/** Latency over SLO, over time; refusals in a strip above. */
figure("over-time", host => {
  const told = report.over_time;
  const area = canvasOf(host, 320, { left: 40, right: 10, top: 66, bottom: 42 });
  const ratios = told.ratio.filter(r => r !== null).sort((a, b) => a - b);
  const most = clamp((ratios[Math.floor(ratios.length * .998)] || 1) * 1.05, 1.2, 4);
  const x = linear(0, report.elapsed_s, area.left, area.right), y = linear(0, most, area.bottom, area.top);
  axisY(area, y, ticks(0, most, 5), v => `${100 * v}%`);
  axisX(area, x, ticks(0, report.elapsed_s, 10), v => `${v}`, "s since counting began");
  mark(area.svg, "text", { x: 0, y: 14 }, "not answered");
  mark(area.svg, "text", { x: 0, y: area.top - 10 }, "share of the SLO used");
  const answered = [], others = [];
  told.ratio.forEach((ratio, i) => {
    const at = x(told.at[i]), model = told.model[i];
    if (ratio === null) others.push([at, 24 + 5 * ((i * 7) % 3), model, i]);
    else answered.push([at, y(Math.min(ratio, most)), model, i]);
  });
  dots(area.svg, answered);
  dots(area.svg, others, "stroke-width:3.4;opacity:.9");
  mark(area.svg, "line", { class: "limit", x1: area.left, x2: area.right, y1: y(1), y2: y(1) });
  mark(area.svg, "text", { class: "strong", x: area.right, y: y(1) - 5, "text-anchor": "end" }, "SLO");
  hover(area, [...answered, ...others], i => {
    const slo = report.counts[told.model[i]].slo_ms || 1000, ratio = told.ratio[i];
    return `<b>${chip(told.model[i])}${escaped(nameOf(told.model[i]))}</b>` + pairs([["sent at", `${told.at[i].toFixed(3)} s`],
      ["became", report.outcomes[told.outcome[i]].replace("_", " ")],
      ...(ratio === null ? [] : [["latency", `${millis(ratio * slo)}, ${percent(ratio, 0)} of its SLO`]])]);
  });
});

/** Measured over predicted, batch by batch, with rolling quantiles; below it the bound's coverage. */
figure("forecasts", host => {
  const told = report.forecasts, rolling = told.rolling;
  const area = canvasOf(host, 420, { left: 48, right: 10, top: 30, bottom: 42 });
  const lower = { ...area, top: 300 }, upper = { ...area, bottom: 262 };
  const sorted = [...told.ratio].sort((a, b) => a - b), reach = k => sorted[clamp(Math.floor(sorted.length * k), 0, sorted.length - 1)] || 1;
  const extent = clamp(Math.max(reach(.995), 1 / reach(.005)), 1.25, 8), logs = Math.log2(extent);
  const x = linear(0, report.elapsed_s, area.left, area.right);
  const scale = linear(-logs, logs, upper.bottom, upper.top), y = ratio => scale(clamp(Math.log2(ratio), -logs, logs));
  const steps = logs > 1.6 ? [2, 4, 8] : logs > 1 ? [1.5, 2, 3] : [1.2, 1.5, 2];  // labels that do not touch
  const marks = [...steps.map(v => 1 / v), 1, ...steps].filter(v => Math.abs(Math.log2(v)) <= logs + 1e-9);
  axisY(upper, y, marks, v => v === 1 ? "exact" : v > 1 ? `${v}×` : `1/${+(1 / v).toFixed(1)}×`, "measured over predicted duration");
  for (const v of ticks(0, report.elapsed_s, 10))
    mark(area.svg, "line", { class: "grid", x1: x(v), x2: x(v), y1: upper.top, y2: upper.bottom });
  const points = told.ratio.map((ratio, i) => [x(told.at[i]), y(ratio), told.model[i], i]);
  dots(area.svg, points, "stroke-width:3.4");
  const at = rolling.at.map(x), back = at.map((v, i) => [v, y(rolling.p10[i])]).reverse();
  if (at.length > 1) {
    mark(area.svg, "path", { class: "band", d: `${line(at.map((v, i) => [v, y(rolling.p90[i])]))}${line(back).replace("M", "L")}Z` });
    mark(area.svg, "path", { class: "middle", d: line(at.map((v, i) => [v, y(rolling.p50[i])])) });
  }
  const low = Math.min(.8, ...rolling.covered), share = linear(Math.floor(low * 10) / 10, 1, lower.bottom, lower.top);
  axisY(lower, share, ticks(Math.floor(low * 10) / 10, 1, 4), v => `${(100 * v).toFixed(0)}%`, 
    `share of batches that ended within their bound${told.level ? `; dashed: the ${percent(told.level, 0)} it promises` : ""}`);
  axisX(lower, x, ticks(0, report.elapsed_s, 10), v => `${v}`, "s since counting began");
  mark(area.svg, "path", { class: "middle", d: line(at.map((v, i) => [v, share(rolling.covered[i])])) });
  if (told.level) mark(area.svg, "line", { class: "limit", x1: area.left, x2: area.right, y1: share(told.level), y2: share(told.level) });
  hover(area, points, i => `<b>${chip(told.model[i])}${escaped(nameOf(told.model[i]))}</b>` + pairs([["ended at", `${told.at[i].toFixed(3)} s`],
    ["measured", `${told.ratio[i].toFixed(2)} times the predicted duration`]]));
});

/** A matrix of slowdowns: the row's model beside the column's. `pick` takes the value of a cell. */
function matrix(box, group, pick, most, describe) {
  const count = group.models.length;
  const longest = Math.max(...group.models.map(m => nameOf(m).length)), edge = clamp(longest * 7 + 10, 60, 150);
  const room = Math.max(280, box.clientWidth), slanted = (room - edge) / count < longest * 7;
  const head = slanted ? clamp(longest * 5.2, 40, 110) : 26;
  const size = clamp((room - edge - (slanted ? longest * 4 : 0)) / count, 26, 84), tall = clamp(size, 26, 52);
  const svg = mark(box, "svg", { viewBox: `0 0 ${room} ${head + count * tall + 4}`, role: "img" });
  const empty = themed("--panel"), hot = themed("--heat"), cool = themed("--cool");
  group.models.forEach((model, k) => {
    mark(svg, "text", { x: edge - 8, y: head + (k + .5) * tall + 4, "text-anchor": "end" }, nameOf(model));
    const x = edge + (k + .5) * size;
    mark(svg, "text", slanted ? { transform: `translate(${x - 4} ${head - 6}) rotate(-38)` } : { x, y: head - 8, "text-anchor": "middle" }, nameOf(model));
  });
  group.cells.forEach((cell, k) => {
    const row = Math.floor(k / count), column = k % count, value = pick(cell);
    const heat = value === null ? 0 : clamp((Math.abs(value - 1)) / (most - 1), 0, 1);
    const place = { x: edge + column * size + 1, y: head + row * tall + 1, width: size - 2, height: tall - 2, rx: 2 };
    mark(svg, "rect", { ...place, fill: empty });
    const shade = mark(svg, "rect", { ...place, fill: value !== null && value < 1 ? cool : hot, opacity: (.06 + .86 * heat) * (value === null ? 0 : 1) });
    const x = place.x + place.width / 2, y = place.y + place.height / 2;
    const faded = cell[2] === 0;
    const style = `fill:${heat > .62 ? "var(--page)" : value === null ? "var(--faint)" : "var(--ink)"};` + (faded ? "font-style:italic;opacity:.75" : "font-weight:600");
    mark(svg, "text", { x, y: y + 4, "text-anchor": "middle", style }, value === null ? "–" : value.toFixed(2));
    const cover = mark(svg, "rect", { ...place, fill: "transparent" });
    cover.addEventListener("pointermove", event => tooltip.show(event, describe(group.models[row], group.models[column], cell)));
    cover.addEventListener("pointerleave", () => tooltip.hide());
    shade.setAttribute("pointer-events", "none");
  });
}

figure("slowdowns", host => {
  host.replaceChildren();
  const values = report.slowdowns.flatMap(group => group.cells.flatMap(cell => [cell[0], cell[1]])).filter(v => v !== null);
  const most = clamp(Math.max(1.5, ...values), 1.5, 4);
  const describe = (victim, other, [observed, believed, count]) =>
    `<b>${chip(victim)}${escaped(nameOf(victim))}</b> beside <b>${chip(other)}${escaped(nameOf(other))}</b>` +
    pairs([["observed", observed === null ? "too rarely met alone" : times(observed)], ["learned", believed === null ? "unknown" : times(believed)],
      ["batches", `${count} met only this one`]]);
  for (const group of report.slowdowns) {
    if (report.slowdowns.length > 1) add(host, "h3", { style: "margin-top:1rem" }, group.device);
    const halves = add(host, "div", { class: "halves" });
    const boxes = ["Observed", "Learned"].map(title => {
      const half = add(halves, "div");
      add(half, "h3", {}, title);
      return add(half, "div");
    });
    boxes.forEach((box, which) => matrix(box, group, cell => cell[which], most, describe));
  }
});

const STAGES = ["#B8C0C9", "#56B4E9", "#98A2AE", "#0072B2", "#D55E00", "#C9CFD6", "#7C8794"];

/** Where the time of an answered request goes, as shares of its mean. */
figure("stages", host => {
  const { names, means } = report.stages, shown = means.map((m, i) => [m, i]).filter(([m]) => m);
  const longest = Math.max(...report.models.map(n => n.length)), edge = clamp(longest * 7 + 12, 70, 160);
  const area = canvasOf(host, 34 * shown.length + 66, { left: edge, right: 74, top: 6, bottom: 60 });
  shown.forEach(([mean, model], k) => {
    const total = mean.reduce((a, b) => a + b, 0), y = area.top + 34 * k;
    const row = mark(area.svg, "g", { class: `series m${model}` });
    mark(row, "text", { x: edge - 8, y: y + 19, "text-anchor": "end", class: "strong" }, nameOf(model));
    let x = edge;
    mean.forEach((ms, s) => {
      const length = ms / total * (area.right - edge);
      const bar = mark(row, "rect", { x, y: y + 3, width: Math.max(0, length - .7), height: 24, fill: STAGES[s] });
      bar.addEventListener("pointermove", event => tooltip.show(event, `<b>${escaped(nameOf(model))}</b>` + pairs([[names[s], `${millis(ms)}, ${percent(ms / total)}`]])));
      bar.addEventListener("pointerleave", () => tooltip.hide());
      if (length > 58) mark(row, "text", { x: x + 6, y: y + 19, style: `fill:${inkOn(STAGES[s])};pointer-events:none` }, millis(ms));
      x += length;
    });
    mark(row, "text", { x: area.right + 8, y: y + 19, class: "strong" }, millis(total));
  });
  let x = edge, y = area.bottom + 22;
  names.forEach((name, s) => {
    const length = name.length * 6.6 + 30;
    if (x + length > area.width && x > edge) { x = edge; y += 19; }
    mark(area.svg, "rect", { x, y: y - 10, width: 11, height: 11, rx: 2, fill: STAGES[s] });
    mark(area.svg, "text", { x: x + 16, y }, name);
    x += length;
  });
});

/** Refusals by reason, coloured by model. */
figure("refusals", host => {
  const rows = Object.entries(report.refusals);
  const longest = Math.max(...rows.map(([reason]) => reason.length)), edge = longest * 7.4 + 12;
  const area = canvasOf(host, 32 * rows.length + 48, { left: edge, right: 60, top: 4, bottom: 40 });
  const totals = rows.map(([, counts]) => counts.reduce((a, b) => a + b, 0)), most = Math.max(1, ...totals);
  const x = linear(0, most, area.left, area.right);
  axisX(area, x, ticks(0, most, 6).filter(Number.isInteger), v => `${v}`, "requests");
  rows.forEach(([reason, counts], k) => {
    const y = area.top + 32 * k;
    mark(area.svg, "text", { x: edge - 8, y: y + 18, "text-anchor": "end", class: "strong" }, reason.toLowerCase().replaceAll("_", " "));
    let from = 0;
    counts.forEach((count, model) => {
      if (!count) return;
      const bar = mark(area.svg, "rect", { class: `series m${model}`, x: x(from), y: y + 3, width: Math.max(.8, x(from + count) - x(from) - .7), height: 22, fill: colourOf(model) });
      bar.addEventListener("pointermove", event => tooltip.show(event, `<b>${chip(model)}${escaped(nameOf(model))}</b>` + pairs([[reason, `${count} requests`]])));
      bar.addEventListener("pointerleave", () => tooltip.hide());
      from += count;
    });
    mark(area.svg, "text", { x: x(from) + 6, y: y + 18 }, `${totals[k]}`);
  });
});

// ---- the page ------------------------------------------------------------------------------------------------------

const redraw = () => figures.forEach(draw => draw());
const focusStyle = add(document.head, "style");

function setFocus(model) {
  focus.model = focus.model === model ? null : model;
  focusStyle.textContent = focus.model === null ? "" : `.series{opacity:.1 !important}.series.m${focus.model}{opacity:.9 !important}`;
  drawLegend();
  redraw();
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  drawLegend();
  redraw();
}

function drawLegend() {
  const legend = document.getElementById("legend"), theme = document.documentElement.dataset.theme;
  legend.replaceChildren();
  report.models.forEach((name, model) => {
    const button = add(legend, "button", { "data-model": model, "aria-pressed": focus.model === model, title: "show this model alone" });
    button.innerHTML = `${chip(model)}${escaped(name)}`;
    button.onclick = () => setFocus(model);
  });
  const button = add(legend, "button", { class: "theme", title: "change colours" }, theme === "dark" ? "Light" : "Dark");
  button.onclick = () => setTheme(theme === "dark" ? "light" : "dark");
}

const dark = matchMedia("(prefers-color-scheme: dark)");
dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
let before = "light";
addEventListener("beforeprint", () => { before = document.documentElement.dataset.theme; setTheme("light"); });
addEventListener("afterprint", () => setTheme(before));
let width = 0;
new ResizeObserver(() => { if (document.body.clientWidth !== width) { width = document.body.clientWidth; redraw(); } }).observe(document.body);
setTheme(dark.matches ? "dark" : "light");
