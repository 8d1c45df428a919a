/** ‹ 2/3 › : moves between the versions of a message. */

import { html } from "../preact.js";
import { IconButton } from "./icons.js";
import { usePage } from "./page.js";

export function BranchArrows({ id, place, count, isBusy }) {
  const { actions, t } = usePage();
  if (count < 2) return null;
  return html`<span class="branches">
    <${IconButton}
      icon="left"
      label=${t("branch.previous")}
      disabled=${isBusy || place === 1}
      onClick=${() => actions.choose(id, -1)}
    />
    <span aria-label=${t("branch.place", { place, count })}>${place}/${count}</span>
    <${IconButton}
      icon="right"
      label=${t("branch.next")}
      disabled=${isBusy || place === count}
      onClick=${() => actions.choose(id, 1)}
    />
  </span>`;
}
