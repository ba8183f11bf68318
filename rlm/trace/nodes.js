"use strict";
// The data of the page as nodes, one for all that can be found, filtered or pointed at; and how things are
// called.

const FILTERS = ["failed", "cached", "retried", "cut"];

const turn = JSON.parse(document.getElementById("data").textContent);
const nodes = []; // in reading order: turn, note, step, batch, call, cell
const filters = new Set();

// -- what things are called

function duration(seconds) {
  if (seconds < 0.0995) return `${Math.round(seconds * 1000)}ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)}s`;
  const whole = Math.round(seconds);
  const two = (number) => String(number).padStart(2, "0");
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${two(whole % 60)}s`;
  return `${Math.floor(whole / 3600)}h ${two(Math.floor((whole % 3600) / 60))}m`;
}

const number = (value) => (value || 0).toLocaleString("en-US");
const plural = (value, noun) => `${number(value)} ${noun}${value === 1 ? "" : "s"}`;
const oneLine = (text) => (text || "").slice(0, 300).replace(/\s+/g, " ").trim();
const short = (text) => (oneLine(text).length > 80 ? `${oneLine(text).slice(0, 79)}…` : oneLine(text));
const joined = (...parts) => parts.filter(Boolean).join(" · ");
const cellName = (step) => `In [${step.cell}]`;
const took = (node) => duration(node.end - node.start);

// -- the nodes

function addNode(kind, of, parent, start, end, marks, ...fields) {
  const node = {
    id: nodes.length,
    kind,
    of,
    parent,
    start,
    end,
    marks: new Set(marks),
    inside: new Set(marks),
  };
  node.fields = fields.filter(([, text]) => text);
  for (let above = parent; above; above = above.parent) marks.forEach((mark) => above.inside.add(mark));
  nodes.push(node);
  return node;
}

function readTurn() {
  const texts = [
    ["question", turn.question],
    ["answer", turn.answer],
    ["message", turn.message],
  ];
  const node = addNode("turn", turn, null, 0, turn.end, [], ...texts);
  readItems(turn.items, node, turn.end);
  return node;
}

function readItems(items, parent, end) {
  parent.items = (items || []).map((item) => {
    if (item.kind === "note") return addNode("note", item, parent, item.at, item.at, [], ["text", item.text]);
    return readStep(item, parent, end);
  });
}

function readStep(step, parent, end) {
  const replied = step.replied ?? end;
  const texts = [
    ["reasoning", step.reasoning],
    ["prose", step.prose],
    ["code", step.code],
  ];
  const node = addNode("step", step, parent, step.start, replied, [], ...texts);
  node.batches = (step.batches || []).map((batch) => readBatch(batch, node, step.end ?? end));
  if (step.code) {
    const marks = step.status && !["ok", "final"].includes(step.status) ? ["failed"] : [];
    const output = [
      ["shown", step.shown],
      ["error", step.error],
    ];
    node.cell = addNode("cell", step, node, replied, step.end ?? end, marks, ...output);
  }
  return node;
}

function readBatch(batch, parent, end) {
  const node = addNode("batch", batch, parent, batch.start, batch.end ?? end, []);
  node.calls = (batch.calls || []).map((call) => readCall(call, node));
  return node;
}

function readCall(call, parent) {
  const child = call.child;
  const marks = [
    call.error && "failed",
    call.cached && "cached",
    call.retries && "retried",
    call.cut && "cut",
  ];
  const error = call.error || (child && child.message);
  const texts = [["prompt", (child && child.question) || call.prompt]];
  const answer = [
    ["reply", (child && child.answer) || call.reply],
    ["error", error],
  ];
  const end = call.end ?? (child && child.end) ?? parent.end;
  const node = addNode("call", call, parent, call.start, end, marks.filter(Boolean), ...texts, ...answer);
  if (child) readItems(child.items, node, end);
  return node;
}

const passes = (node) => !filters.size || [...filters].some((mark) => node.inside.has(mark));
const counted = (mark) => nodes.filter((node) => node.marks.has(mark)).length;

const root = readTurn();
