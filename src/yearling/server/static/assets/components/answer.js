/** What the model answered: Markdown as it grows, then how fast it came and what went wrong. */

import { formatNumber } from "../i18n.js";
import { html, memo } from "../preact.js";
import { BranchArrows } from "./branch_arrows.js";
import { CopyButton } from "./copy_button.js";
import { Icon, IconButton, Mark } from "./icons.js";
import { MarkdownView } from "./markdown_view.js";
import { usePage } from "./page.js";

export const Answer = memo(({ node, place, count, isRunning, isBusy }) => {
  const { actions, t } = usePage();
  return html`<article class="answer" aria-label=${t("message.assistant")}>
    <span class=${`avatar${isRunning ? " is-running" : ""}`}><${Mark} /></span>
    <div class="answer-body">
      ${isRunning && !node.text && html`<div
        class="waiting"
        aria-label=${t("message.waiting")}
      >
        <i></i><i></i><i></i>
      </div>`}
      <${MarkdownView} text=${node.text} isGrowing=${isRunning} />
      <${Ending} node=${node} />
      ${
        !isRunning &&
        html`<div class="tools">
        <${BranchArrows} id=${node.id} place=${place} count=${count} isBusy=${isBusy} />
        ${node.text && html`<${CopyButton} text=${node.text} />`}
        <${IconButton}
          icon="refresh"
          label=${t("message.regenerate")}
          disabled=${isBusy}
          onClick=${() => actions.regenerate(node.id)}
        />
        <${SpeedLine} speed=${node.speed} model=${node.model} />
      </div>`
      }
    </div>
  </article>`;
});

function Ending({ node }) {
  const { actions, t } = usePage();
  if (node.finish === "stopped") return html`<p class="remark">${t("ending.stopped")}</p>`;
  if (node.finish === "length") return html`<p class="remark">${t("ending.length")}</p>`;
  if (node.finish !== "error") return null;
  const { kind, message } = node.error;
  return html`<div class="failure" role="alert">
    <${Icon} name="warning" />
    <div>
      <strong>${t(`error.${kind}`)}</strong>
      ${message && html`<p>${message}</p>`}
    </div>
    ${
      kind === "context"
        ? html`<button
          type="button"
          class="button"
          onClick=${() => actions.open(null)}
        >
          ${t("chat.new")}
        </button>`
        : html`<button
          type="button"
          class="button"
          onClick=${() => actions.regenerate(node.id)}
        >
          ${t("retry")}
        </button>`
    }
  </div>`;
}

function SpeedLine({ speed, model }) {
  const { t, language } = usePage();
  if (!speed) return null;
  const number = (value, digits) => formatNumber(language, value, digits);
  const parts = [
    t("speed.tokens", { about: speed.isEstimate ? "≈ " : "", tokens: number(speed.tokens) }),
    speed.perSecond > 0 &&
      t("speed.rate", { rate: number(speed.perSecond, speed.perSecond < 10 ? 1 : 0) }),
    t("speed.first", { seconds: number(speed.firstSeconds, 2) }),
  ];
  return html`<span class="speed" title=${model}>${parts.filter(Boolean).join(" · ")}</span>`;
}
