/** What the user asked: plain text, exactly as typed; it can be copied and edited. */

import { html, memo, useEffect, useRef, useState } from "../preact.js";
import { BranchArrows } from "./branch_arrows.js";
import { CopyButton } from "./copy_button.js";
import { useGrowing } from "./growing.js";
import { IconButton } from "./icons.js";
import { usePage } from "./page.js";

export const Question = memo(({ node, place, count, isBusy }) => {
  const { t } = usePage();
  const [isEditing, setEditing] = useState(false);
  if (isEditing) return html`<${EditForm} node=${node} onDone=${() => setEditing(false)} />`;
  return html`<article class="question" aria-label=${t("message.user")}>
    <div class="bubble">${node.text}</div>
    <div class="tools">
      <${BranchArrows} id=${node.id} place=${place} count=${count} isBusy=${isBusy} />
      <${CopyButton} text=${node.text} />
      <${IconButton}
        icon="edit"
        label=${t("message.edit")}
        disabled=${isBusy}
        onClick=${() => setEditing(true)}
      />
    </div>
  </article>`;
});

function EditForm({ node, onDone }) {
  const { actions, t } = usePage();
  const [text, setText] = useState(node.text);
  const field = useRef();
  useGrowing(field, text);
  useEffect(() => {
    const end = field.current.value.length;
    field.current.focus();
    field.current.setSelectionRange(end, end);
  }, []);
  const submit = (event) => {
    event.preventDefault();
    if (!text.trim()) return;
    onDone();
    actions.edit(node.id, text.trim());
  };
  const onKeyDown = (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) submit(event);
    if (event.key === "Escape") {
      event.preventDefault();
      onDone();
    }
  };
  return html`<form class="question edit-form" onSubmit=${submit}>
    <textarea
      ref=${field}
      class="grows"
      aria-label=${t("message.edit")}
      value=${text}
      onInput=${(event) => setText(event.target.value)}
      onKeyDown=${onKeyDown}
    ></textarea>
    <div class="edit-actions">
      <button type="button" class="button" onClick=${onDone}>${t("cancel")}</button>
      <button
        type="submit"
        class="button is-primary"
        disabled=${!text.trim()}
      >
        ${t("message.resend")}
      </button>
    </div>
  </form>`;
}
