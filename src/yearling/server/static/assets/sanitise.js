/** HTML that came from a model, made harmless: a short list of tags, and nothing that loads. */

import DOMPurify from "./vendor/dompurify/purify.es.mjs";

const TAGS = [
  "a",
  "b",
  "blockquote",
  "br",
  "code",
  "del",
  "em",
  "h1",
  "h2",
  "h3",
  "h4",
  "h5",
  "h6",
  "hr",
  "i",
  "img",
  "input",
  "kbd",
  "li",
  "mark",
  "ol",
  "p",
  "pre",
  "s",
  "strong",
  "sub",
  "sup",
  "table",
  "tbody",
  "td",
  "th",
  "thead",
  "tr",
  "u",
  "ul",
];
const ATTRIBUTES = [
  "align",
  "alt",
  "checked",
  "class",
  "disabled",
  "href",
  "src",
  "start",
  "title",
  "type",
];
const CLASS = /^(?:language-[\w+#-]{1,32}|math-inline|math-display)$/;
const LINK = /^(?:https?:|mailto:)/i;
const INLINE_IMAGE = /^data:image\/(?:png|jpeg|gif|webp);base64,/i;

const purifier = DOMPurify(window);
purifier.addHook("afterSanitizeAttributes", (element) => {
  if (element.tagName === "A") restrictLink(element);
  if (element.tagName === "IMG") restrictImage(element);
  if (element.tagName === "INPUT") restrictInput(element);
  if (element.hasAttribute("class") && !CLASS.test(element.className)) {
    element.removeAttribute("class"); // the page's own classes would let text dress up as controls
  }
});

/** @param {string} html  @returns {DocumentFragment} */
export function sanitise(html) {
  return purifier.sanitize(html, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ATTRIBUTES,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  });
}

function restrictLink(link) {
  if (!LINK.test(link.getAttribute("href") ?? "")) {
    link.removeAttribute("href");
    return;
  }
  link.target = "_blank";
  link.rel = "noopener noreferrer nofollow";
}

// A remote image would tell its host who reads; its address is shown instead, to be followed.
function restrictImage(image) {
  const source = image.getAttribute("src") ?? "";
  if (INLINE_IMAGE.test(source)) return;
  const link = document.createElement("a");
  link.textContent = image.alt ? `${image.alt} (${source})` : source;
  link.href = source;
  restrictLink(link);
  image.replaceWith(link);
}

function restrictInput(input) {
  if (input.type !== "checkbox") input.remove();
  input.disabled = true;
}
