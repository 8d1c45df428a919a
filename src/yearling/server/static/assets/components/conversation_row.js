/** One conversation in the sidebar: open it, or rename, export or delete it. */

import { html, memo, useEffect, useRef, useState } from "../preact.js";
import { Menu } from "./menu.js";
import { usePage } from "./page.js";

export const ConversationRow = memo(({ id, title, isOpen, isRunning }) => {
  const { actions, t } = usePage();
  const [isRenaming, setRenaming] = useState(false);
  if (isRenaming)
    return html`<li><${RenameField}
      id=${id}
      title=${title}
      onDone=${() => setRenaming(false)}
    /></li>`;
  return html`<li class=${`row${isOpen ? " is-open" : ""}`}>
    <button
      type="button"
      class="row-title"
      aria-current=${isOpen ? "true" : undefined}
      title=${title}
      onClick=${() => actions.open(id)}
      onDblClick=${() => setRenaming(true)}
    >
      ${isRunning && html`<span class="pulse" aria-hidden="true"></span>`}<span>${title}</span>
    </button>
    <${Menu}
      label=${t("row.menu", { title })}
      items=${[
        { text: t("row.rename"), act: () => setRenaming(true) },
        { text: t("row.markdown"), act: () => actions.export(id, "markdown") },
        { text: t("row.json"), act: () => actions.export(id, "json") },
        { text: t("row.delete"), act: () => actions.remove(id), isDanger: true },
      ]}
    />
  </li>`;
});

function RenameField({ id, title, onDone }) {
  const { actions, t } = usePage();
  const field = useRef();
  const isDone = useRef(false);
  useEffect(() => field.current.select(), []);
  const finish = (isKept) => {
    if (isDone.current) return; // leaving the field follows Enter and Escape
    isDone.current = true;
    if (isKept) actions.rename(id, field.current.value);
    onDone();
  };
  const onKeyDown = (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter") finish(true);
    if (event.key === "Escape") {
      event.preventDefault();
      finish(false);
    }
  };
  return html`<input
    ref=${field}
    class="rename"
    aria-label=${t("row.rename")}
    value=${title}
    onKeyDown=${onKeyDown}
    onBlur=${() => finish(true)}
  />`;
}
