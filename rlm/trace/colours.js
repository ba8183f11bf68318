// Colours Python code, roughly: comments, strings, keywords and numbers. It parses nothing.

const KEYWORDS =
  "False None True and as assert async await break class continue def del elif else except finally for " +
  "from global if import in is lambda match case nonlocal not or pass raise return try while with yield";
const TOKENS = new RegExp(
  "(?<c>#[^\\n]*)" +
    "|(?<s>(?:\\b[rbfuRBFU]{1,2})?(?:\"\"\"[^]*?(?:\"\"\"|$)|'''[^]*?(?:'''|$)" +
    "|\"(?:\\\\[^]|[^\"\\\\\\n])*\"?|'(?:\\\\[^]|[^'\\\\\\n])*'?))" +
    `|(?<k>\\b(?:${KEYWORDS.replaceAll(" ", "|")})\\b)` +
    "|(?<n>\\b\\d[\\w.]*)",
  "g",
);

/** Python, roughly: comments, strings, keywords and numbers in spans. */
function coloured(code) {
  const parts = [];
  let end = 0;
  for (const match of code.matchAll(TOKENS)) {
    const kind = Object.keys(match.groups).find((name) => match.groups[name] !== undefined);
    parts.push(code.slice(end, match.index), el("span", kind, match[0]));
    end = match.index + match[0].length;
  }
  return [...parts, code.slice(end)];
}
