/** A button that copies a text and says so. */

import { copyText } from "../clipboard.js";
import { html, useState } from "../preact.js";
import { IconButton } from "./icons.js";
import { usePage } from "./page.js";

export function CopyButton({ text }) {
  const { t } = usePage();
  const [isCopied, setCopied] = useState(false);
  const copy = async () => {
    await copyText(text);
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  return html`<${IconButton}
    icon=${isCopied ? "check" : "copy"}
    label=${t(isCopied ? "copied" : "copy")}
    onClick=${copy}
  />`;
}
