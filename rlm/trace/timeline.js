// The time line: what ran when, in lanes, on a canvas. Pointer, keys and buttons zoom, move and choose.

const LANES_AT_MOST = 200;
const AXIS = 22; // heights in CSS pixels
const TITLE = 18;
const GAP = 6;

const timeline = {
  groups: [],
  bars: [], // by their beginning
  view: [0, 1], // seconds
  picked: null,
  hovered: null,

  /** Bars from nodes, in groups; in a group each bar is in the first lane that is free. */
  build() {
    const groups = new Map();
    const put = (name, colour, node, inner = []) => {
      if (!groups.has(name)) groups.set(name, { name, bars: [], lanes: 1 });
      const bar = { node, colour, inner, start: node.start, end: Math.max(node.end, node.start) };
      groups.get(name).bars.push(bar);
    };
    const own = (node) => node.parent && (node.parent === root || node.parent.parent === root);
    for (const node of nodes) {
      if (node.kind === "step" && own(node)) put("root model", "root", node);
      else if (node.kind === "cell" && own(node)) put("cells", "cell", node);
      else if (node.kind === "call" && node.of.child)
        put(`children, depth ${node.of.child.depth ?? 1}`, "child", node, partsOf(node));
      else if (node.kind === "call") put("sub-calls", "call", node);
    }
    const order = ["root model", "cells", "sub-calls"];
    const rank = (group) => (order.includes(group.name) ? order.indexOf(group.name) : order.length);
    this.groups = [...groups.values()].sort((a, b) => rank(a) - rank(b) || a.name.localeCompare(b.name));
    this.groups.forEach(placeInLanes);
    this.bars = this.groups.flatMap((group) => group.bars).sort((a, b) => a.start - b.start);
    this.end = Math.max(0.001, ...this.bars.slice(-1).map((bar) => bar.end), root.end);
    this.view = [0, this.end];
  },

  /** How high lanes are, and where each group begins. */
  layout() {
    const lanes = this.groups.reduce((sum, group) => sum + group.lanes, 0);
    const height = lanes > 120 ? 3 : lanes > 40 ? 5 : lanes > 16 ? 9 : 14;
    let top = AXIS;
    for (const group of this.groups) {
      group.top = top + TITLE;
      group.height = group.lanes === 1 ? 14 : height;
      top = group.top + group.lanes * group.height + GAP;
    }
    return top;
  },

  draw() {
    const canvas = document.getElementById("canvas");
    const width = canvas.clientWidth;
    if (!width) return;
    const height = this.layout();
    const ratio = devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const colours = {};
    for (const swatch of document.querySelectorAll(".legend i"))
      colours[swatch.className] = getComputedStyle(swatch).backgroundColor;
    const quiet = getComputedStyle(canvas).color;
    this.drawAxis(pen, width, height, quiet);
    for (const group of this.groups) {
      pen.fillStyle = quiet;
      pen.fillText(`${group.name} (${number(group.bars.length)})`, 6, group.top - 5);
      for (const bar of group.bars) this.drawBar(pen, width, group, bar, colours);
    }
    if (this.hovered) this.outline(pen, width, this.hovered, quiet, 1);
    if (this.picked) this.outline(pen, width, this.picked, getComputedStyle(document.body).color, 2);
  },

  drawAxis(pen, width, height, colour) {
    const [from, to] = this.view;
    const steps = [
      0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800,
      3600, 7200, 21600, 86400,
    ];
    const most = Math.max(2, Math.floor(width / 80));
    const step = steps.find((size) => (to - from) / size <= most) ?? (to - from) / most;
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = pen.strokeStyle = colour;
    for (let tick = Math.ceil(from / step) * step; tick <= to; tick += step) {
      const x = Math.round(this.x(tick, width)) + 0.5;
      pen.globalAlpha = 0.25;
      pen.beginPath();
      pen.moveTo(x, AXIS - 4);
      pen.lineTo(x, height);
      pen.stroke();
      pen.globalAlpha = 1;
      const label =
        tick < step / 2
          ? "0"
          : step < 0.0995
            ? `${(tick * 1000).toFixed(0)}ms`
            : tick < 59.5
              ? `${Number(tick.toFixed(1))}s`
              : duration(tick);
      pen.textAlign = x < 14 ? "left" : x > width - 20 ? "right" : "center";
      pen.fillText(label, x < 14 ? 4 : x, 12);
    }
    pen.textAlign = "left";
  },

  drawBar(pen, width, group, bar, colours) {
    if (bar.end < this.view[0] || bar.start > this.view[1]) return;
    const [x, y, w, h] = this.box(width, bar, group);
    const marks = bar.node.marks;
    pen.globalAlpha = passes(bar.node) ? 1 : 0.15;
    const colour = marks.has("failed")
      ? colours.failed
      : marks.has("cached")
        ? colours.cached
        : colours[bar.colour];
    pen.fillStyle = colour;
    if (bar.inner.length) pen.globalAlpha *= 0.35;
    pen.fillRect(x, y, w, h);
    if (bar.inner.length) pen.globalAlpha /= 0.35;
    for (const part of bar.inner) {
      pen.fillStyle = part.kind === "step" ? colours.child : colours.cell;
      const left = this.x(part.start, width);
      pen.fillRect(left, y + h / 4, Math.max(0.5, this.x(part.end, width) - left), h / 2);
    }
    pen.globalAlpha = 1;
  },

  outline(pen, width, bar, colour, thickness) {
    const [x, y, w, h] = this.box(
      width,
      bar,
      this.groups.find((group) => group.bars.includes(bar)),
    );
    pen.strokeStyle = colour;
    pen.lineWidth = thickness;
    pen.strokeRect(x - 1, y - 1, w + 2, h + 2);
    pen.lineWidth = 1;
  },

  x(seconds, width) {
    return ((seconds - this.view[0]) / (this.view[1] - this.view[0])) * width;
  },

  box(width, bar, group) {
    const left = this.x(bar.start, width);
    const thick = group.height > 6 ? group.height - 2 : group.height - 1;
    return [left, group.top + bar.lane * group.height, Math.max(1.5, this.x(bar.end, width) - left), thick];
  },

  /** The bar at a point of the canvas; of short ones the nearest within reach of a finger. */
  at(x, y) {
    const width = document.getElementById("canvas").clientWidth;
    const group = this.groups.find((one) => y >= one.top - 2 && y < one.top + one.lanes * one.height + 2);
    if (!group) return null;
    const lane = Math.min(group.lanes - 1, Math.max(0, Math.floor((y - group.top) / group.height)));
    let best = null;
    let least = 8;
    for (const bar of group.bars) {
      if (bar.lane !== lane) continue;
      const distance = Math.max(this.x(bar.start, width) - x, x - this.x(bar.end, width), 0);
      if (distance < least) [best, least] = [bar, distance];
    }
    return best;
  },

  zoom(factor, centre = (this.view[0] + this.view[1]) / 2) {
    const [from, to] = this.view;
    const least = this.end / 1e5;
    const span = Math.min(this.end, Math.max(least, (to - from) * factor));
    this.moveTo(centre - ((centre - from) / (to - from)) * span, span);
  },

  moveTo(from, span = this.view[1] - this.view[0]) {
    const start = Math.max(0, Math.min(from, this.end - span));
    this.view = [start, start + span];
    this.draw();
  },

  pick(bar) {
    this.picked = bar;
    tell(bar);
    if (bar && (bar.end < this.view[0] || bar.start > this.view[1]))
      this.moveTo(bar.start - (this.view[1] - this.view[0]) / 2);
    else this.draw();
  },

  step(by) {
    const at = this.picked ? this.bars.indexOf(this.picked) + by : by > 0 ? 0 : this.bars.length - 1;
    this.pick(this.bars[Math.max(0, Math.min(this.bars.length - 1, at))] ?? null);
  },
};

/** The root calls and cells of a child RLM. */
const partsOf = (node) =>
  node.items
    .filter((item) => item.kind === "step")
    .flatMap((step) => (step.cell ? [step, step.cell] : [step]));

function placeInLanes(group) {
  const free = []; // when each lane is free
  group.bars.sort((a, b) => a.start - b.start);
  for (const bar of group.bars) {
    let lane = free.findIndex((end) => end <= bar.start);
    if (lane < 0) lane = Math.min(free.length, LANES_AT_MOST - 1);
    bar.lane = lane;
    free[lane] = bar.end;
  }
  group.lanes = Math.max(1, free.length);
}

function describe(bar) {
  const { node } = bar;
  const times = `${duration(node.start)} to ${duration(node.end)} (${took(node)})`;
  const of = node.of;
  if (node.kind === "step")
    return joined(`Step ${of.step}: the reply of ${of.model || "the root model"}`, times, of.took);
  if (node.kind === "cell")
    return joined(`${cellName(of)} ${(of.status || "not finished").replace("_", " ")}`, times);
  const name = of.child
    ? `Child RLM ${of.child.child}`
    : `Sub-call ${of.index} of batch ${node.parent.of.batch}`;
  return joined(
    name,
    [...node.marks].join(", "),
    times,
    of.took || (of.child && of.child.took),
    short(node.fields[0]?.[1]),
  );
}

function tell(bar) {
  document.getElementById("picked").textContent = bar ? describe(bar) : "Point at a bar, or tap it.";
  document.getElementById("show").hidden = !timeline.picked;
}

function startPointer(canvas) {
  let drag = null;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, from: timeline.view[0], moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = place(event);
    if (drag) {
      const by = event.clientX - drag.x;
      drag.moved ||= Math.abs(by) > 4;
      if (drag.moved)
        timeline.moveTo(drag.from - (by / canvas.clientWidth) * (timeline.view[1] - timeline.view[0]));
      return;
    }
    const bar = timeline.at(x, y);
    if (bar === timeline.hovered) return;
    timeline.hovered = bar;
    tell(bar || timeline.picked);
    timeline.draw();
  });
  canvas.addEventListener("pointerup", (event) => {
    if (drag && !drag.moved) timeline.pick(timeline.at(...place(event)));
    drag = null;
  });
  canvas.addEventListener("pointercancel", () => (drag = null));
  canvas.addEventListener("pointerleave", () => {
    timeline.hovered = null;
    tell(timeline.picked);
    timeline.draw();
  });
  canvas.addEventListener(
    "wheel",
    (event) => {
      const [from, to] = timeline.view;
      if (event.ctrlKey || event.metaKey) {
        timeline.zoom(
          Math.exp(event.deltaY / 300),
          from + (place(event)[0] / canvas.clientWidth) * (to - from),
        );
      } else if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
        timeline.moveTo(from + (event.deltaX / canvas.clientWidth) * (to - from));
      } else {
        return;
      }
      event.preventDefault();
    },
    { passive: false },
  );
}

function startTimeline() {
  const canvas = document.getElementById("canvas");
  const showPicked = () => timeline.picked && goTo(timeline.picked.node);
  const keys = {
    ArrowRight: () => timeline.step(1),
    ArrowLeft: () => timeline.step(-1),
    "+": () => timeline.zoom(0.5),
    "-": () => timeline.zoom(2),
    0: () => timeline.zoom(Infinity),
    Enter: showPicked,
  };
  timeline.build();
  startPointer(canvas);
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    keys[event.key]();
  });
  document.getElementById("zoom-in").addEventListener("click", () => timeline.zoom(0.5));
  document.getElementById("zoom-out").addEventListener("click", () => timeline.zoom(2));
  document.getElementById("zoom-all").addEventListener("click", () => timeline.zoom(Infinity));
  document.getElementById("show").addEventListener("click", showPicked);
  new ResizeObserver(() => timeline.draw()).observe(canvas.parentElement);
}

startTimeline();
startSearch();
start();
