/** Where the user writes. */

import { html, useEffect, useRef, useState } from "../preact.js";
import { useGrowing } from "./growing.js";
import { Icon } from "./icons.js";
import { usePage } from "./page.js";

export function Composer({ isRunning, canSend }) {
  const { actions, t } = usePage();
  const [text, setText] = useState("");
  const field = useRef();
  useGrowing(field, text);
  const hasTouch = matchMedia("(pointer: coarse)").matches;
  // A phone's keyboard would cover what the user came to read.
  useEffect(() => !hasTouch && field.current.focus(), []);
  const isReady = canSend && text.trim() !== "" && !isRunning;
  const send = (event) => {
    event.preventDefault();
    if (!isReady) return;
    actions.send(text.trim());
    setText("");
  };
  const onKeyDown = (event) => {
    // Enter also ends the composition of Chinese characters, which sends nothing.
    const isEnter = event.key === "Enter" && !event.shiftKey && !event.isComposing;
    if (isEnter) send(event);
  };
  return html`<form class="composer" onSubmit=${send}>
      <textarea
        ref=${field}
        id="composer"
        class="grows"
        rows="1"
        aria-label=${t("composer.label")}
        placeholder=${t("composer.placeholder")}
        value=${text}
        onInput=${(event) => setText(event.target.value)}
        onKeyDown=${onKeyDown}
      ></textarea>
      ${
        isRunning
          ? html`<button
            type="button"
            class="send is-stop"
            aria-label=${t("composer.stop")}
            title=${`${t("composer.stop")} (Esc)`}
            onClick=${actions.stop}
          >
            <span class="stop-square"></span>
          </button>`
          : html`<button
            type="submit"
            class="send"
            aria-label=${t("composer.send")}
            title=${t("composer.send")}
            disabled=${!isReady}
          >
            <${Icon} name="send" />
          </button>`
      }
    </form>
    <p class="hint">${t(hasTouch ? "composer.hint_touch" : "composer.hint")}</p>`;
}
