// Search over all texts of the data, shown or not: counts hits, goes from one to the next, marks those that
// are shown.

const MOST_HITS = 10000;
const MOST_MARKED = 2000;
const found = { pattern: null, hits: [], at: -1 };
const queryField = document.getElementById("query");

function search(query) {
  found.pattern = query ? new RegExp(query.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "giu") : null;
  found.hits = found.pattern ? allHits() : [];
  found.at = -1;
  tellHits();
  paintHits();
}

function allHits() {
  const hits = [];
  for (const node of nodes) {
    if (!passes(node)) continue;
    for (const [field, text] of node.fields) {
      for (const hit of hitsIn(text, MOST_HITS - hits.length)) hits.push({ node, field, ...hit });
    }
  }
  return hits;
}

/** At most so many hits in a text. */
function hitsIn(text, most) {
  const hits = [];
  for (const match of most ? text.matchAll(found.pattern) : []) {
    hits.push({ start: match.index, end: match.index + match[0].length });
    if (hits.length === most) break;
  }
  return hits;
}

function tellHits() {
  const count = found.hits.length;
  const all = number(count) + (count === MOST_HITS ? "+" : "");
  const place =
    found.at >= 0 ? `${number(found.at + 1)} of ${all}` : `${all} ${count === 1 ? "hit" : "hits"}`;
  document.getElementById("hits").textContent = found.pattern ? place : "";
  for (const id of ["previous", "next"]) document.getElementById(id).disabled = !count;
}

function goToHit(step) {
  const count = found.hits.length;
  if (!count) return;
  found.at = found.at < 0 ? (step > 0 ? 0 : count - 1) : (found.at + step + count) % count;
  const hit = found.hits[found.at];
  reveal(hit.node);
  const block = blockOf(hit);
  if (hit.end > block.length) block.showAll();
  const middle = rangesIn(block.pre, [hit])[0].getBoundingClientRect();
  scrollTo({ top: scrollY + middle.top - innerHeight / 2 });
  tellHits();
  paintHits();
}

const blockOf = (hit) => blocks.get(`${hit.node.id} ${hit.field}`);

/** Parts of an element's text, given by `start` and `end` in order; each may lie in several spans. */
function rangesIn(element, parts) {
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  let before = 0;
  let text = walker.nextNode();
  const goOn = (enough) => {
    while (text && !enough(text.length)) {
      before += text.length;
      text = walker.nextNode();
    }
  };
  return parts.map(({ start, end }) => {
    const range = new Range();
    goOn((length) => start < before + length);
    range.setStart(text, start - before);
    goOn((length) => end <= before + length);
    range.setEnd(text, end - before);
    return range;
  });
}

/** Marks the hits in the texts that are shown; a browser without highlights selects the one we are at. */
function paintHits() {
  const hit = found.hits[found.at];
  const block = hit && blockOf(hit);
  const current = block && hit.end <= block.length ? rangesIn(block.pre, [hit]) : [];
  if (!window.Highlight) {
    getSelection().removeAllRanges();
    current.forEach((range) => getSelection().addRange(range));
    return;
  }
  CSS.highlights.set("current", new Highlight(...current));
  const ranges = [];
  for (const { pre } of found.pattern ? blocks.values() : []) {
    const places = hitsIn(pre.textContent, MOST_MARKED - ranges.length);
    ranges.push(...rangesIn(pre, places));
  }
  CSS.highlights.set("hits", new Highlight(...ranges));
  if (current.length) CSS.highlights.get("current").priority = 1;
}

function startSearch() {
  let waiting = 0;
  queryField.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => search(queryField.value), 150);
  });
  queryField.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    goToHit(event.shiftKey ? -1 : 1);
  });
  document.getElementById("next").addEventListener("click", () => goToHit(1));
  document.getElementById("previous").addEventListener("click", () => goToHit(-1));
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target === queryField) return;
    event.preventDefault();
    queryField.focus();
  });
}
