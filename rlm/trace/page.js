// The tree of a turn: makes elements of the nodes when they are first looked at. Text of the data gets into
// the page as text nodes only. Search, time line and colours stand in files of their own.

const CALLS_AT_ONCE = 100; // a batch of more is shown in groups of so many
const STEPS_OPEN = 40; // up to so many, the steps are open from the start
const HEAD_CHARS = 3000; // of a long text, so much is shown at first, and at most so many lines
const HEAD_LINES = 30;

const blocks = new Map(); // of each text that is shown, its <pre> and the node and field it is of

// -- elements

function el(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== "" && child != null));
  return element;
}

const facts = (...parts) => el("span", "facts", joined(...parts));

function marksOf(node) {
  const call = node.of;
  const shown = { cached: "cached", retried: `${call.retries}× retried`, cut: "cut", failed: "failed" };
  return FILTERS.filter((mark) => node.marks.has(mark)).map((mark) =>
    el("span", `mark ${mark}`, shown[mark]),
  );
}

/** A part that opens; `fill` is called with its body when it first does. `node.open()` opens it at once. */
function fold(node, className, summary, fill) {
  const body = el("div", "body");
  const details = el(
    "details",
    className,
    el("summary", "", ...summary.flatMap((part) => (part ? [part, " "] : []))),
    body,
  );
  let filled = false;
  const fillOnce = () => {
    if (!filled) fill(body);
    filled = true;
  };
  node.open = () => {
    fillOnce();
    details.open = true;
  };
  details.addEventListener("toggle", () => {
    if (!details.open) return;
    fillOnce();
    paintHits();
  });
  node.element = details;
  return details;
}

/** One of a node's texts: its head, and a button for the rest of a long one. */
function textBlock(node, field, className, label, note) {
  const found = node.fields.find(([name]) => name === field);
  if (!found) return "";
  const text = found[1];
  const head = text.split("\n", HEAD_LINES).join("\n").slice(0, HEAD_CHARS);
  const pre = el("pre");
  const more = el("button", "more", `Show all ${number(text.length)} characters`);
  const show = (part) => {
    block.length = part.length;
    pre.replaceChildren(...(field === "code" ? coloured(part) : [part]));
    if (part.length === text.length) more.remove();
  };
  const block = { node, field, pre, length: 0, showAll: () => block.length < text.length && show(text) };
  more.addEventListener("click", () => {
    block.showAll();
    paintHits();
  });
  const element = el("div", `text ${className}`, label ? el("div", "label", label) : "", pre, more);
  show(text.length - head.length < 200 ? text : head);
  if (note) element.append(el("div", "label", note));
  blocks.set(`${node.id} ${field}`, block);
  return element;
}

// -- the parts of the page

function showTurn(node) {
  const finished = turn.outcome || "not finished";
  const question = el("h1");
  const place = document.getElementById("turn");
  const calls = nodes.filter((inner) => inner.kind === "call");
  const children = calls.filter((call) => call.of.child).length;
  const steps = nodes.filter((inner) => inner.kind === "step" && inner.parent === node).length;
  question.append(textBlock(node, "question", "", ""));
  place.append(
    el(
      "div",
      "facts",
      joined(
        `Turn ${turn.turn ?? "?"}`,
        turn.when && `${turn.when} UTC`,
        turn.session && `session ${turn.session}`,
      ),
    ),
    question,
    el(
      "p",
      "",
      el("span", `mark ${turn.status === "ok" ? "ok" : "failed"}`, finished),
      " ",
      facts(
        took(node),
        plural(steps, "step"),
        calls.length > children && plural(calls.length - children, "sub-call"),
        children && `${plural(children, "child RLM")}`,
        turn.took,
        turn.session_cost && `session ${turn.session_cost}`,
      ),
    ),
    textBlock(node, "message", "note warning", ""),
    textBlock(node, "answer", "answer", turn.status === "ok" ? "Answer" : "Best partial answer", turn.rest),
    turn.models ? modelTable(turn.models) : "",
  );
}

function modelTable(models) {
  const row = (tag, cells) => el("tr", "", ...cells.map((cell) => el(tag, "", cell)));
  const names = ["model", "calls", "in", "out", "cached", "cost"];
  return el(
    "table",
    "",
    el("thead", "", row("th", names)),
    el("tbody", "", ...models.map((cells) => row("td", cells))),
  );
}

function items(node) {
  return node.items.filter(passes).map((item) => {
    if (item.kind === "note") return textBlock(item, "text", `note ${item.of.level || ""}`, "");
    const element = stepFold(item);
    if (filters.size || (node.kind === "turn" && node.items.length <= STEPS_OPEN) || node.kind === "call")
      item.open();
    return element;
  });
}

function stepFold(node) {
  const step = node.of;
  const calls = node.batches.reduce((sum, batch) => sum + (batch.of.total || batch.calls.length), 0);
  const name = step.last
    ? "Last reply"
    : `Step ${step.step ?? "?"}${step.max_steps ? `/${step.max_steps}` : ""}`;
  const summary = [
    el("span", "name", name),
    step.code ? el("span", "head", cellName(step)) : "",
    node.cell && node.cell.marks.has("failed")
      ? el("span", "mark failed", step.status.replace("_", " "))
      : "",
    facts(
      step.depth && `depth ${step.depth}`,
      duration((step.end ?? node.end) - node.start),
      calls && plural(calls, "sub-call"),
      step.took,
      step.model,
    ),
  ];
  return fold(node, "step", summary, (body) => {
    body.append(
      textBlock(node, "reasoning", "thinking", "Thinking"),
      textBlock(node, "prose", "", ""),
      textBlock(node, "code", "mono code", joined(step.code && cellName(step), `asked ${took(node)}`)),
      ...node.batches.filter(passes).map(batchFold),
      ...(node.cell ? cellParts(node.cell, step) : []),
    );
  });
}

function cellParts(node, step) {
  const shown = (step.shown || "").length;
  const cut =
    step.total_chars > shown &&
    `the model was shown ${number(shown)} of ${number(step.total_chars)} characters`;
  const label = joined(
    `Out [${step.cell}]`,
    (step.status || "not finished").replace("_", " "),
    took(node),
    cut,
  );
  const output = textBlock(node, "shown", "mono", label) || el("div", "text facts", label);
  const parts = [output, textBlock(node, "error", "mono error", "")];
  node.element = output;
  return parts;
}

function batchFold(node) {
  const batch = node.of;
  const all = batch.total || node.calls.length;
  const marked = (mark) => node.calls.filter((call) => call.marks.has(mark)).length;
  const noun = batch.recursive ? "child RLM" : "sub-call";
  const summary = [
    el(
      "span",
      "name",
      node.calls.length < all ? `${number(node.calls.length)} of ${plural(all, noun)}` : plural(all, noun),
    ),
    ...FILTERS.filter(marked).map((mark) => el("span", `mark ${mark}`, `${number(marked(mark))} ${mark}`)),
    facts(batch.model, took(node), batch.took),
  ];
  const element = fold(node, batch.recursive ? "batch recursive" : "batch", summary, (body) => {
    const calls = node.calls.filter(passes);
    if (calls.length <= CALLS_AT_ONCE) body.append(...calls.map(callFold));
    else
      for (let at = 0; at < calls.length; at += CALLS_AT_ONCE)
        body.append(groupFold(calls.slice(at, at + CALLS_AT_ONCE)));
  });
  if (filters.size || all === 1) node.open();
  return element;
}

function groupFold(calls) {
  const group = {};
  const failed = calls.filter((call) => call.marks.has("failed")).length;
  for (const call of calls) call.group = group;
  const summary = [
    el("span", "head", `[${number(calls[0].of.index)}] to [${number(calls.at(-1).of.index)}]`),
    failed ? el("span", "mark failed", `${failed} failed`) : "",
  ];
  return fold(group, "group", summary, (body) => body.append(...calls.map(callFold)));
}

function callFold(node) {
  const call = node.of;
  const child = call.child;
  const summary = [
    el("span", "name", `[${call.index}]`),
    ...marksOf(node),
    el("span", "head", short(child ? child.question : call.prompt)),
    call.error ? "" : el("span", "", `→ ${short((child && child.answer) || call.reply)}`),
    facts(call.cached ? "" : took(node), child ? child.took : call.took),
  ];
  return fold(node, child ? "call recursive" : "call", summary, (body) => {
    if (child)
      body.append(
        el(
          "div",
          "facts",
          joined(
            `Child RLM ${child.child}`,
            child.outcome || "not finished",
            `${number(child.context_chars)} characters of context`,
            child.model,
          ),
        ),
      );
    body.append(
      textBlock(node, "prompt", "mono", child ? "Question" : "Prompt"),
      ...(child ? items(node) : []),
      textBlock(node, "reply", "mono", child ? "Answer" : "Reply"),
      textBlock(node, "error", "mono error", "Failed"),
    );
  });
}

// -- going to a node

/** Opens all that a node is in, and the node; its element is there then. */
function reveal(node) {
  if (!node.parent) return;
  reveal(node.parent);
  if (node.group) node.group.open();
  if (node.open) node.open();
}

function goTo(node) {
  reveal(node);
  const element = node.element || document.getElementById("turn");
  for (const old of document.querySelectorAll(".shown-now")) old.classList.remove("shown-now");
  element.classList.add("shown-now");
  element.scrollIntoView({ block: "center" });
  const summary = element.querySelector("summary");
  if (summary) summary.focus({ preventScroll: true });
  paintHits();
}

function showSteps() {
  for (const [key, block] of blocks) if (block.node.kind !== "turn") blocks.delete(key);
  for (const node of nodes) if (node.parent) node.open = node.element = node.group = undefined;
  document.getElementById("steps").replaceChildren(...items(root));
}

function showFilters() {
  const place = document.getElementById("filters");
  for (const mark of FILTERS.filter(counted)) {
    const button = el("button", "", `${mark} ${number(counted(mark))}`);
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      if (!filters.delete(mark)) filters.add(mark);
      button.setAttribute("aria-pressed", String(filters.has(mark)));
      showSteps();
      timeline.draw();
      search(document.getElementById("query").value);
    });
    place.append(button);
  }
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  document.getElementById("theme").textContent = isDark() ? "Light" : "Dark";
  timeline.draw();
}

function start() {
  showTurn(root);
  showFilters();
  showSteps();
  setTheme(isDark() ? "dark" : "light");
  document.getElementById("theme").addEventListener("click", () => setTheme(isDark() ? "light" : "dark"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (query) =>
    setTheme(query.matches ? "dark" : "light"),
  );
  let before = "light";
  addEventListener("beforeprint", () => {
    before = isDark() ? "dark" : "light";
    setTheme("light");
  });
  addEventListener("afterprint", () => setTheme(before));
  document.getElementById("about").textContent =
    "Of prompts and replies of sub-calls, the first 2,000 characters are recorded. Control characters and " +
    "marks that change the direction of text are shown as escapes. This page asks nothing of any server.";
}
