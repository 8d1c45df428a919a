/** What a new chat shows: a greeting, and questions to begin with. */

import { html } from "../preact.js";
import { Mark } from "./icons.js";
import { usePage } from "./page.js";

const EXAMPLES = ["explain", "code", "write", "plan"];

export function EmptyState({ canSend }) {
  const { actions, t } = usePage();
  return html`<div class="empty">
    <div class="empty-inner">
      <span class="empty-mark"><${Mark} /></span>
      <h1>${t("empty.title")}</h1>
      <p>${t("empty.subtitle")}</p>
      <ul class="examples">
        ${EXAMPLES.map(
          (name) => html`<li key=${name}>
            <button
              type="button"
              disabled=${!canSend}
              onClick=${() => actions.send(t(`example.${name}.prompt`))}
            >
              <strong>${t(`example.${name}.title`)}</strong>
              <span>${t(`example.${name}.prompt`)}</span>
            </button>
          </li>`,
        )}
      </ul>
    </div>
  </div>`;
}
