"use strict";
(() => {
  const source = document.getElementById("network-data");
  if (!source) return;
  const { drawings, views } = JSON.parse(source.textContent);
  const byId = (id) => document.getElementById(id);
  const svg = byId("network-svg"), step = byId("network-step"), at = byId("network-at"), play = byId("network-play");
  const pickDrawing = byId("network-view"), pickMetric = byId("network-metric"), pickRun = byId("network-run");
  const W = 640, H = 480, M = 24;
  // From dark violet to yellow, in equal steps of lightness.
  const stops = JSON.parse(document.getElementById("palette").textContent).ramp;
  const RAMP = stops.map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16)));
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
  byId("network-ramp").style.background = `linear-gradient(90deg, ${RAMP.map((c) => `rgb(${c.join(",")})`).join(", ")})`;
  const element = (name, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const color = (t) => {
    const place = Math.max(0, Math.min(1, t)) * (RAMP.length - 1), low = Math.min(RAMP.length - 2, Math.floor(place));
    return `rgb(${RAMP[low].map((v, i) => Math.round(v + (RAMP[low + 1][i] - v) * (place - low))).join(",")})`;
  };
  const words = (name) => name.replaceAll("_", " ");
  const short = (v) => (v !== 0 && (Math.abs(v) >= 1e5 || Math.abs(v) < 1e-3) ? v.toExponential(2) : String(Number(v.toPrecision(4))));
  let nodes = [], low = 0, high = 1, timer = 0;
  // The choices of a control; it is shown where there is a choice.  What was chosen before stays chosen.
  const fill = (control, choices) => {
    const before = control.selectedOptions.length ? control.selectedOptions[0].textContent : "";
    control.textContent = "";
    for (const [value, text] of choices) {
      const option = document.createElement("option");
      option.value = String(value);
      option.textContent = text;
      option.selected = text === before;
      control.append(option);
    }
    control.parentElement.hidden = choices.length < 2;
  };
  const mine = () => views.filter((one) => one.drawing === Number(pickDrawing.value));
  const current = () => views[Number(pickRun.value)];
  const build = () => {
    fill(pickMetric, [...new Set(mine().map((one) => one.metric))].map((name) => [name, words(name)]));
    rebuild();
  };
  const rebuild = () => {
    fill(pickRun, mine().filter((one) => one.metric === pickMetric.value).map((one) => [views.indexOf(one), words(one.run)]));
    const one = current(), { places, segments, links, server } = drawings[one.drawing];
    const all = server ? [...places, [0, 0]] : places, xs = all.map((p) => p[0]), ys = all.map((p) => p[1]);
    const left = Math.min(...xs), right = Math.max(...xs), bottom = Math.min(...ys), top = Math.max(...ys);
    const zoom = Math.min((W - 2 * M) / Math.max(right - left, 1e-9), (H - 2 * M) / Math.max(top - bottom, 1e-9));
    const px = (x) => W / 2 + (x - (left + right) / 2) * zoom, py = (y) => H / 2 - (y - (bottom + top) / 2) * zoom;
    svg.textContent = "";
    const faint = Math.max(0.12, Math.min(1, (3 * places.length) / (segments.length + 1)));
    for (const [x1, y1, x2, y2] of segments) svg.append(element("line", { x1: px(x1), y1: py(y1), x2: px(x2), y2: py(y2), class: "link", "stroke-opacity": faint }));
    let nearest = Infinity;  // pixels between neighbours, so that discs do not hide each other
    const few = places.slice(0, 300);
    few.forEach(([x, y], i) => few.slice(i + 1).forEach(([u, v]) => { nearest = Math.min(nearest, Math.hypot(x - u, y - v) * zoom); }));
    const radius = Math.max(2, Math.min(11, 0.45 * nearest));
    nodes = places.map(([x, y]) => {
      const made = element("circle", { cx: px(x), cy: py(y), r: radius, class: "node" });
      made.append(element("title", {}));
      svg.append(made);
      return made;
    });
    if (server) {
      svg.append(element("rect", { x: px(0) - 34, y: py(0) - 15, width: 68, height: 30, rx: 6, class: "server" }));
      svg.append(element("text", { x: px(0), y: py(0) + 4, "text-anchor": "middle" }, "server"));
    }
    const known = one.values.flat().filter((v) => v !== null);
    low = known.length ? Math.min(...known) : 0;
    high = known.length ? Math.max(...known) : 1;
    step.max = String(one.steps.length - 1);
    if (Number(step.value) > one.steps.length - 1) step.value = step.max;
    byId("network-time").hidden = one.steps.length < 2;
    byId("network-scale").hidden = low === high;
    byId("network-low").textContent = short(low);
    byId("network-high").textContent = short(high);
    const what = server ? `${places.length} clients, which exchange messages with a server` : `${places.length} nodes, ${links} link${links === 1 ? "" : "s"}`;
    const hidden = links > 0 && !segments.length ? " (too many to draw)" : "";
    const same = low === high ? ` Each has ${words(one.metric)} ${short(low)}.` : ` Colour: ${words(one.metric)}${one.steps.length > 1 ? " in the first seed" : ""}.`;
    byId("network-what").textContent = `${what}${hidden}.${server && one.steps.length < 2 ? "" : same}`;
    svg.setAttribute("aria-label", `${drawings[one.drawing].label}: ${what}, coloured by ${words(one.metric)}`);
    paint();
  };
  const share = (value) => (high > low ? (value - low) / (high - low) : 0.4);
  const paint = () => {
    const one = current(), values = one.values[Number(step.value)];
    nodes.forEach((node, i) => {
      const value = values[i];
      node.setAttribute("fill", value === null ? "none" : color(share(value)));
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
  pickDrawing.addEventListener("change", () => { stop(); build(); });
  for (const control of [pickMetric, pickRun]) control.addEventListener("change", () => { stop(); rebuild(); });
  fill(pickDrawing, drawings.map((one, i) => [i, one.label]).filter(([i]) => views.some((view) => view.drawing === i)));
  step.max = "1000000";
  step.value = step.max;  // the end of the run comes first
  build();
})();
