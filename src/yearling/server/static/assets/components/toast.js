/** A short notice at the bottom that goes away by itself. */

import { html, useEffect } from "../preact.js";
import { usePage } from "./page.js";

const SHOWN_MILLISECONDS = 7000;

export function Toast({ toast }) {
  const { actions, t } = usePage();
  useEffect(() => {
    if (!toast) return undefined;
    const timer = setTimeout(() => actions.set({ toast: null }), SHOWN_MILLISECONDS);
    return () => clearTimeout(timer);
  }, [toast]);
  return html`<div class="toast-place" role="status">
    ${
      toast &&
      html`<div class="toast">
      <span>${toast.text}</span>
      ${toast.undo && html`<button type="button" onClick=${toast.undo}>${t("toast.undo")}</button>`}
    </div>`
    }
  </div>`;
}
