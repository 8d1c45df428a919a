/** A conversation as a file: JSON holds every branch, Markdown the one shown. */

import { shownPath } from "./conversation.js";

/** Hands the browser a file to save. @param {"json"|"markdown"} format */
export function exportFile(conversation, format, t) {
  const isJson = format === "json";
  const text = isJson ? `${JSON.stringify(conversation, null, 2)}\n` : toMarkdown(conversation, t);
  const type = isJson ? "application/json" : "text/markdown";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = `${fileStem(conversation.title)}.${isJson ? "json" : "md"}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** The messages shown, as one Markdown document. @returns {string} */
export function toMarkdown(conversation, t) {
  const parts = shownPath(conversation).map(({ role, model, text }) => {
    const name = role === "user" ? t("export.user") : (model ?? t("export.assistant"));
    return `## ${name}\n\n${text.trim()}\n`;
  });
  return [`# ${conversation.title}\n`, ...parts].join("\n");
}

function fileStem(title) {
  return (
    title
      .replace(/[^\p{L}\p{N}]+/gu, "-")
      .replace(/^-|-$/g, "")
      .slice(0, 48) || "yearling"
  );
}
