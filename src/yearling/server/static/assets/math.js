/** Formulas: $…$, $$…$$, \(…\) and \[…\] in Markdown, drawn by KaTeX when there is one. */

const DISPLAY = /^(?:\$\$([^$]+?)\$\$|\\\[([\s\S]+?)\\\])/;
const BLOCK = new RegExp(`${DISPLAY.source}[ \\t]*(?:\\n|$)`);
// As in Pandoc: no space inside the dollars and no digit after them, so that prices stay text.
const INLINE = /^(?:\$(?![\s$])((?:\\.|[^\\$\n])*?[^\s\\$])\$(?!\d)|\\\(([\s\S]+?)\\\))/;

/** For marked: formulas become code elements, which show their source until KaTeX is there. */
export const mathExtensions = [
  extension("blockMath", "block", BLOCK, "math-display", /\n(?:\$\$|\\\[)/),
  extension("displayMath", "inline", DISPLAY, "math-display", /\$\$|\\\[/),
  extension("inlineMath", "inline", INLINE, "math-inline", /\$|\\\(/),
];

function extension(name, level, pattern, className, opening) {
  return {
    name,
    level,
    start: (source) => source.match(opening)?.index,
    tokenizer(source) {
      const match = pattern.exec(source);
      if (!match) return undefined;
      return { type: name, raw: match[0], formula: (match[1] ?? match[2]).trim() };
    },
    renderer: ({ formula }) => `<code class="${className}">${escape(formula)}</code>`,
  };
}

function escape(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}

/** @type {{render: Function}|undefined} */
let katex;
let loading;

/** Draws the formulas of a fragment, now or when KaTeX has come. */
export function typesetMath(fragment) {
  const places = fragment.querySelectorAll("code.math-inline, code.math-display");
  if (!places.length) return;
  if (katex) places.forEach(typeset);
  else (loading ??= load()).then(() => places.forEach(typeset));
}

async function load() {
  const style = document.createElement("link");
  style.rel = "stylesheet";
  style.href = new URL("./vendor/katex/katex.min.css", import.meta.url).href;
  document.head.append(style);
  // Half the size of the module build; it leaves its one name on the window.
  await import("./vendor/katex/katex.min.js");
  katex = window.katex;
}

// KaTeX builds nodes and styles through the DOM, so the page's policy needs no inline styles.
function typeset(place) {
  const displayMode = place.className === "math-display";
  const box = document.createElement(displayMode ? "div" : "span");
  box.className = place.className;
  const options = { displayMode, throwOnError: false, trust: false, strict: "ignore" };
  katex.render(place.textContent, box, options);
  place.replaceWith(box);
}
