"use strict";
(() => {
  const source = document.getElementById("network-data");
  if (!source) return;
  const { views } = JSON.parse(source.textContent);
  const byId = (id) => document.getElementById(id);
  const svg = byId("network-svg"), view = byId("network-view"), step = byId("network-step");
  const at = byId("network-at"), play = byId("network-play"), scale = byId("network-scale");
  const W = 640, H = 480, M = 24;
  // From dark blue to yellow, in equal steps of lightness.
  const RAMP = [[38, 40, 94], [42, 92, 131], [37, 137, 131], [88, 181, 104], [196, 216, 62], [253, 231, 37]];
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
  const element = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const color = (t) => {
    const place = Math.max(0, Math.min(1, t)) * (RAMP.length - 1), low = Math.min(RAMP.length - 2, Math.floor(place));
    return `rgb(${RAMP[low].map((v, i) => Math.round(v + (RAMP[low + 1][i] - v) * (place - low))).join(",")})`;
  };
  const short = (v) => String(Number(v.toPrecision(4)));
  let nodes = [], low = 0, high = 1, timer = 0;
  views.forEach((one, i) => {
    const option = document.createElement("option");
    option.value = String(i);
    option.textContent = `${one.metric.replaceAll("_", " ")}, ${one.label}`;
    view.append(option);
  });
  const current = () => views[Number(view.value)];
  const build = () => {
    const one = current(), xs = one.places.map((p) => p[0]), ys = one.places.map((p) => p[1]);
    const left = Math.min(...xs), right = Math.max(...xs), bottom = Math.min(...ys), top = Math.max(...ys);
    const zoom = Math.min((W - 2 * M) / Math.max(right - left, 1e-9), (H - 2 * M) / Math.max(top - bottom, 1e-9));
    const px = (x) => W / 2 + (x - (left + right) / 2) * zoom, py = (y) => H / 2 - (y - (bottom + top) / 2) * zoom;
    svg.textContent = "";
    for (const [x1, y1, x2, y2] of one.segments) svg.append(element("line", { x1: px(x1), y1: py(y1), x2: px(x2), y2: py(y2), class: "grid" }));
    let nearest = Infinity;  // pixels between neighbours, so that discs do not hide each other
    const few = one.places.slice(0, 300);
    few.forEach(([x, y], i) => few.slice(i + 1).forEach(([u, v]) => { nearest = Math.min(nearest, Math.hypot(x - u, y - v) * zoom); }));
    const radius = Math.max(2, Math.min(11, 0.45 * nearest));
    nodes = one.places.map(([x, y], i) => {
      const made = element("circle", { cx: px(x), cy: py(y), r: radius, stroke: "#888", "stroke-width": 0.5, class: "node" });
      made.append(element("title", {}));
      svg.append(made);
      return made;
    });
    const known = one.values.flat().filter((v) => v !== null);
    low = known.length ? Math.min(...known) : 0;
    high = known.length ? Math.max(...known) : 1;
    step.max = String(one.steps.length - 1);
    if (Number(step.value) > one.steps.length - 1) step.value = step.max;
    scale.textContent = `${one.metric.replaceAll("_", " ")}: dark ${short(low)}, bright ${short(high)}`;
    paint();
  };
  const paint = () => {
    const one = current(), values = one.values[Number(step.value)];
    nodes.forEach((node, i) => {
      const value = values[i];
      node.setAttribute("fill", value === null ? "none" : color(high > low ? (value - low) / (high - low) : 0.5));
      node.firstChild.textContent = `node ${i}: ${value === null ? "nothing" : short(value)}`;
    });
    at.textContent = String(one.steps[Number(step.value)]);
  };
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
    play.setAttribute("aria-pressed", "false");
  };
  play.addEventListener("click", () => {
    if (timer) { stop(); return; }
    if (step.value === step.max) step.value = "0";
    play.textContent = "Stop";
    play.setAttribute("aria-pressed", "true");
    timer = setInterval(() => {
      step.value = String(Number(step.value) + 1);
      paint();
      if (step.value === step.max) stop();
    }, 120);
  });
  step.addEventListener("input", () => { stop(); paint(); });
  view.addEventListener("change", () => { stop(); build(); });
  step.max = "1000000";
  step.value = step.max;  // the end of the run comes first
  build();
})();
