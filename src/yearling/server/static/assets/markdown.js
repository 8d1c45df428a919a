/** Markdown turned into safe nodes, block by block, so that a growing answer stays cheap. */

import { highlightBlocks } from "./highlight.js";
import { mathExtensions, typesetMath } from "./math.js";
import { sanitise } from "./sanitise.js";
import { Marked } from "./vendor/marked/marked.esm.js";

const OPEN_BLOCKS = 2;
const PLAIN_TAG = /^<\/?(?:b|br|del|em|i|kbd|mark|s|strong|sub|sup|u)\s*\/?>$/i;

const marked = new Marked({ gfm: true, breaks: false });
marked.use({
  extensions: mathExtensions,
  renderer: {
    // A model that writes a tag mostly means to show it; only bare text styles pass.
    html: ({ text }) => (PLAIN_TAG.test(text.trim()) ? text : escapeHtml(text)),
  },
});

/**
 * @typedef {object} Block
 * @property {string} raw Its Markdown; equal texts draw equally.
 * @property {import("./vendor/marked/marked.esm.js").Token} token
 */

/**
 * Makes a function from the whole text so far to its blocks.
 *
 * Of a text that only grew, every block but the last two is settled: only the rest is read again,
 * and settled blocks are the same objects as before. The last but one is open because a list can
 * still take back what follows it: `2` is a paragraph until its dot comes.
 *
 * @returns {(text: string) => Block[]}
 */
export function createBlockSplitter() {
  let known = "";
  let settled = [];
  let settledLength = 0;
  return (text) => {
    if (!text.startsWith(known)) [settled, settledLength] = [[], 0];
    known = text;
    const fresh = splitBlocks(text.slice(settledLength));
    for (const block of fresh.slice(0, -OPEN_BLOCKS)) {
      settled.push(block);
      settledLength += block.raw.length;
    }
    return [...settled, ...fresh.slice(-OPEN_BLOCKS)];
  };
}

// Blank lines join the block before them, so that a list they interrupt can still go on.
function splitBlocks(text) {
  const blocks = [];
  for (const token of marked.lexer(text)) {
    const last = blocks.at(-1);
    if (token.type === "space" && last) last.raw += token.raw;
    else blocks.push({ raw: token.raw, token });
  }
  return blocks;
}

/**
 * Draws one block.
 * @param {Block} block
 * @param {{isGrowing: boolean, labels: {copy: string}}} options
 * @returns {DocumentFragment}
 */
export function renderBlock(block, options) {
  const fragment = sanitise(marked.parser([block.token]));
  fragment.querySelectorAll("table").forEach((table) => wrap(table, "table-scroll"));
  highlightBlocks(fragment, options);
  typesetMath(fragment);
  return fragment;
}

function wrap(element, className) {
  const box = document.createElement("div");
  box.className = className;
  box.tabIndex = 0; // a wide table is scrolled with the arrow keys
  element.replaceWith(box);
  box.append(element);
}

function escapeHtml(text) {
  const names = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  return text.replace(/[&<>"]/g, (letter) => names[letter]);
}
