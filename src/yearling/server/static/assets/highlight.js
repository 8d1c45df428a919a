/** Code blocks: colours, the language's name and a copy button. */

import { copyText } from "./clipboard.js";
import highlighter from "./vendor/highlight/core.min.js";

const GRAMMARS = [
  "bash",
  "c",
  "cpp",
  "css",
  "diff",
  "go",
  "ini",
  "java",
  "javascript",
  "json",
  "kotlin",
  "makefile",
  "markdown",
  "php",
  "python",
  "r",
  "ruby",
  "rust",
  "sql",
  "swift",
  "typescript",
  "xml",
  "yaml",
];
const ALIASES = {
  "c++": "cpp",
  golang: "go",
  h: "c",
  hpp: "cpp",
  html: "xml",
  js: "javascript",
  jsx: "javascript",
  kt: "kotlin",
  make: "makefile",
  md: "markdown",
  mjs: "javascript",
  patch: "diff",
  py: "python",
  python3: "python",
  rb: "ruby",
  rs: "rust",
  sh: "bash",
  shell: "bash",
  svg: "xml",
  toml: "ini",
  ts: "typescript",
  tsx: "typescript",
  yml: "yaml",
  zsh: "bash",
};
const EMBEDDED = { xml: ["css", "javascript"], php: ["xml"] };
// Colouring is redone at each new piece; beyond this length it waits for the block's end.
const GROWING_CHARACTERS = 6000;

/** @type {Map<string, Promise<void>>} */
const loading = new Map();

/**
 * Dresses every code block of a fragment.
 * @param {DocumentFragment} fragment
 * @param {{isGrowing: boolean, labels: {copy: string, copied: string}}} options
 */
export function highlightBlocks(fragment, { isGrowing, labels }) {
  for (const code of fragment.querySelectorAll("pre > code")) {
    const name = code.className.replace("language-", "");
    const isTooLong = isGrowing && code.textContent.length > GROWING_CHARACTERS;
    if (!isTooLong) colour(code, ALIASES[name.toLowerCase()] ?? name.toLowerCase());
    frame(code.parentElement, name, labels);
  }
}

function colour(code, grammar) {
  if (!GRAMMARS.includes(grammar)) return;
  if (highlighter.getLanguage(grammar)) paint(code, grammar);
  else load(grammar).then(() => paint(code, grammar));
}

// The result is the library's own markup around escaped text; no model's HTML reaches it.
function paint(code, grammar) {
  const { value } = highlighter.highlight(code.textContent, { language: grammar });
  code.innerHTML = value;
}

function load(grammar) {
  if (!loading.has(grammar)) loading.set(grammar, fetchGrammar(grammar));
  return loading.get(grammar);
}

async function fetchGrammar(grammar) {
  await Promise.all((EMBEDDED[grammar] ?? []).map(load));
  const module = await import(`./vendor/highlight/languages/${grammar}.min.js`);
  highlighter.registerLanguage(grammar, module.default);
}

function frame(pre, name, labels) {
  const box = document.createElement("figure");
  box.className = "code-block";
  const bar = document.createElement("figcaption");
  const label = document.createElement("span");
  label.textContent = name || "text";
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = labels.copy;
  button.addEventListener("click", () => copy(pre, button, labels));
  bar.append(label, button);
  pre.tabIndex = 0; // long lines are scrolled with the arrow keys
  pre.replaceWith(box);
  box.append(bar, pre);
}

async function copy(pre, button, labels) {
  await copyText(pre.textContent);
  button.textContent = labels.copied;
  setTimeout(() => (button.textContent = labels.copy), 1500);
}
