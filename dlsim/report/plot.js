"use strict";
(() => {
  const source = document.getElementById("plot-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  // Black is the colour of the text, which is light on a dark page.
  const COLORS = JSON.parse(document.getElementById("palette").textContent).colors.map((c) => (c === "#000000" ? "currentColor" : c));
  const DASHES = ["", "7 3", "2 3", "9 3 2 3"];
  const MEAN = "(mean)", STEP = "step";
  const svg = document.getElementById("plot-svg"), isNarrow = svg.parentElement.clientWidth < 500;  // a phone
  const W = isNarrow ? 420 : 760, H = isNarrow ? 330 : 400, L = 70, R = 16, T = 14, B = 46;
  const tip = document.getElementById("plot-tip");
  const controls = document.getElementById("plot-controls"), legend = document.getElementById("plot-legend");
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
  const sizes = [...data.axes.map((axis) => axis.values.length), data.seeds, data.steps.length];
  const strides = sizes.map((_, i) => sizes.slice(i + 1).reduce((a, b) => a * b, 1));
  const element = (name, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const select = (id, label, values, chosen) => {
    const box = document.createElement("label"), made = document.createElement("select");
    box.append(`${label} `, made);
    made.id = id;
    values.forEach((value, i) => {
      const option = document.createElement("option");
      option.value = String(value[0]);
      option.textContent = value[1];
      made.append(option);
    });
    made.value = String(chosen);
    made.addEventListener("change", () => { if (id === "x" || id === "hue") layout(); draw(); });
    controls.append(box);
    return made;
  };
  const names = Object.keys(data.metrics);
  const FIRST = ["accuracy", "throughput", "episode_return", "loss", "distance", "consensus_distance"];  // what is asked for most
  const state = { metric: FIRST.find((name) => names.includes(name)) ?? names[0], x: STEP, hue: data.axes[0] ? data.axes[0].name : "" };
  const numeric = (axis) => axis.values.every((v) => v !== "" && Number.isFinite(Number(v)));
  let picks = {}, fields = {}, curves = [], pointed = [0, 0];
  const layout = () => {
    const before = Object.fromEntries(Object.entries(fields).map(([id, field]) => [id, field.value]));
    Object.assign(state, { metric: before.metric ?? state.metric, x: before.x ?? state.x, hue: before.hue ?? state.hue });
    const focused = document.activeElement && document.activeElement.id;
    controls.textContent = "";
    fields = {};
    fields.metric = select("metric", "Metric", names.map((n) => [n, n.replaceAll("_", " ")]), state.metric);
    fields.x = select("x", "Against", [[STEP, STEP], ...data.axes.map((a) => [a.name, a.name.replaceAll("_", " ")])], state.x);
    const hues = data.axes.filter((a) => a.name !== state.x);
    if (!hues.some((a) => a.name === state.hue)) state.hue = hues[0] ? hues[0].name : "";
    fields.hue = select("hue", "Colour", [...hues.map((a) => [a.name, a.name.replaceAll("_", " ")]), ["", "nothing"]], state.hue);
    picks = {};
    data.axes.forEach((axis, i) => {
      if (axis.name === state.x || axis.name === state.hue) return;
      const values = axis.values.map((v, k) => [k, v]);
      picks[i] = fields[`pick-${i}`] = select(`pick-${i}`, axis.name.replaceAll("_", " "), [...values, [MEAN, MEAN]], before[`pick-${i}`] ?? 0);
    });
    fields.scale = select("scale", "Scale", [["linear", "linear"], ["log", "log"]], before.scale ?? "linear");
    const again = focused && document.getElementById(focused);
    if (again) again.focus();
  };
  // All values of one point of a curve: over seeds, and over the axes that are averaged.
  const seedMeans = (fixed, step) => {
    const values = data.metrics[fields.metric.value], out = [];
    for (let seed = 0; seed < data.seeds; seed++) {
      let total = 0, count = 0;
      const visit = (axis, offset) => {
        if (axis === data.axes.length) {
          const value = values[offset + seed * strides[axis] + step];
          if (value !== null) { total += value; count += 1; }
          return;
        }
        const choice = fixed[axis];
        if (choice !== undefined) { visit(axis + 1, offset + choice * strides[axis]); return; }
        for (let k = 0; k < sizes[axis]; k++) visit(axis + 1, offset + k * strides[axis]);
      };
      visit(0, 0);
      if (count) out.push(total / count);
    }
    return out;
  };
  const collect = () => {
    const fixed = {};
    for (const [axis, field] of Object.entries(picks)) if (field.value !== MEAN) fixed[axis] = Number(field.value);
    const hue = data.axes.findIndex((a) => a.name === state.hue), along = data.axes.findIndex((a) => a.name === state.x);
    const xs = along < 0 ? data.steps : numeric(data.axes[along]) ? data.axes[along].values.map(Number) : data.axes[along].values.map((_, k) => k);
    const last = data.steps.length - 1;
    return (hue < 0 ? [null] : data.axes[hue].values).map((label, k) => {
      const points = [];
      xs.forEach((x, i) => {
        const at = { ...fixed };
        if (hue >= 0) at[hue] = k;
        if (along >= 0) at[along] = i;
        const found = seedMeans(at, along < 0 ? i : last);
        if (found.length) points.push({ x, name: along < 0 ? String(x) : data.axes[along].values[i], y: found.reduce((a, b) => a + b, 0) / found.length, low: Math.min(...found), high: Math.max(...found) });
      });
      points.sort((a, b) => a.x - b.x);
      return { label: label === null ? fields.metric.value.replaceAll("_", " ") : label, points, color: COLORS[k % COLORS.length], dash: DASHES[Math.floor(k / COLORS.length) % DASHES.length] };
    });
  };
  const short = (v) => (v === 0 ? "0" : Math.abs(v) >= 1e5 || Math.abs(v) < 1e-3 ? v.toExponential(2) : String(Number(v.toPrecision(4))));
  // Four to nine round numbers between two.
  const round = (from, to) => {
    const rough = (to - from) / 5, power = 10 ** Math.floor(Math.log10(rough));
    const width = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= rough * 0.999), out = [];
    for (let k = Math.ceil(from / width - 1e-9); k * width <= to + 1e-9 * width; k++) out.push(Number((k * width).toPrecision(10)));
    return out;
  };
  const draw = () => {
    svg.textContent = "";
    legend.textContent = "";
    tip.hidden = true;
    curves = collect();
    const isLog = fields.scale.value === "log";
    const keep = (v) => !isLog || v > 0;
    const all = curves.flatMap((c) => c.points.flatMap((p) => [p.y, p.low, p.high])).filter(keep);
    const xs = curves.flatMap((c) => c.points.map((p) => p.x));
    if (!all.length) { svg.append(element("text", { x: W / 2, y: H / 2, "text-anchor": "middle" }, "nothing to draw here")); return; }
    const f = isLog ? Math.log10 : (v) => v;
    let low = Math.min(...all.map(f)), high = Math.max(...all.map(f));
    if (low === high) { low -= 0.5; high += 0.5; }
    let left = Math.min(...xs), right = Math.max(...xs);
    if (left === right) { left -= 0.5; right += 0.5; }
    const px = (x) => L + ((x - left) / (right - left)) * (W - L - R);
    const py = (y) => H - B - ((f(y) - low) / (high - low)) * (H - T - B);
    for (const v of round(low, high)) {
      const y = H - B - ((v - low) / (high - low)) * (H - T - B);
      svg.append(element("line", { x1: L, x2: W - R, y1: y, y2: y, class: "grid" }));
      svg.append(element("text", { x: L - 8, y: y + 4, "text-anchor": "end" }, short(isLog ? 10 ** v : v)));
    }
    const along = data.axes.find((a) => a.name === state.x);
    const marks = along ? (curves[0].points.length ? curves[0].points.map((p) => [p.x, p.name]) : []) : round(left, right).map((v) => [v, short(v)]);
    for (const [x, text] of marks) svg.append(element("text", { x: px(x), y: H - B + 18, "text-anchor": "middle" }, text));
    svg.append(element("text", { x: (L + W - R) / 2, y: H - 8, "text-anchor": "middle" }, state.x.replaceAll("_", " ")));
    for (const curve of curves) {
      const points = curve.points.filter((p) => keep(p.y) && keep(p.low));
      if (!points.length) continue;
      const up = points.map((p) => `${px(p.x)},${py(p.high)}`), down = points.map((p) => `${px(p.x)},${py(p.low)}`).reverse();
      svg.append(element("polygon", { points: [...up, ...down].join(" "), fill: curve.color, opacity: 0.15 }));
      svg.append(element("polyline", { points: points.map((p) => `${px(p.x)},${py(p.y)}`).join(" "), class: "curve", stroke: curve.color, "stroke-dasharray": curve.dash }));
      if (points.length < 30) for (const p of points) svg.append(element("circle", { cx: px(p.x), cy: py(p.y), r: 3, fill: curve.color }));
      curve.drawn = points.map((p) => ({ ...p, px: px(p.x), py: py(p.y) }));
      const item = document.createElement("span"), swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.borderTopColor = curve.color;
      swatch.style.borderTopStyle = curve.dash ? "dashed" : "solid";
      item.append(swatch, curve.label);
      legend.append(item);
    }
    svg.setAttribute("aria-label", `${fields.metric.value} against ${state.x}, ${curves.length} curves`);
    pointed = [0, 0];
  };
  const show = (curve, point) => {
    svg.querySelectorAll(".mark").forEach((mark) => mark.remove());
    svg.append(element("circle", { cx: point.px, cy: point.py, r: 5, fill: "none", stroke: curve.color, "stroke-width": 2, class: "mark" }));
    tip.textContent = `${curve.label}, ${state.x.replaceAll("_", " ")} ${point.name}: ${short(point.y)}` + (data.seeds > 1 ? ` (${short(point.low)} to ${short(point.high)})` : "");
    tip.hidden = false;
    const scale = svg.clientWidth / W;
    tip.style.left = `${Math.max(4, Math.min(point.px * scale + 10, svg.clientWidth - tip.offsetWidth - 4))}px`;
    tip.style.top = `${Math.max(4, point.py * scale - 34)}px`;
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), scale = W / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    let best = null;
    curves.forEach((curve, i) => (curve.drawn ?? []).forEach((point, k) => {
      const distance = (point.px - x) ** 2 + (point.py - y) ** 2;
      if (!best || distance < best.distance) best = { distance, curve, point, i, k };
    }));
    if (best) { pointed = [best.i, best.k]; show(best.curve, best.point); }
  });
  svg.addEventListener("pointerleave", () => { tip.hidden = true; });
  svg.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    const drawn = curves.filter((curve) => curve.drawn && curve.drawn.length);
    if (!moves || !drawn.length) return;
    event.preventDefault();
    pointed = [Math.max(0, Math.min(drawn.length - 1, pointed[0] + moves[0])), pointed[1] + moves[1]];
    const curve = drawn[pointed[0]];
    pointed[1] = Math.max(0, Math.min(curve.drawn.length - 1, pointed[1]));
    show(curve, curve.drawn[pointed[1]]);
  });
  layout();
  draw();
})();
