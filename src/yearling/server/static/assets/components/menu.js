/** A button with a menu, as the ARIA practices describe one. */

import { html, useEffect, useRef, useState } from "../preact.js";
import { IconButton } from "./icons.js";

/**
 * @typedef {{text: string, act: () => void, isDanger?: boolean}} Item
 * @param {{label: string, items: Item[]}} properties
 */
export function Menu({ label, items }) {
  const [isOpen, setOpen] = useState(false);
  const box = useRef();
  const list = useRef();
  useEffect(() => isOpen && list.current.querySelector("button").focus(), [isOpen]);
  const close = () => {
    setOpen(false);
    box.current.querySelector("button").focus();
  };
  const onKeyDown = (event) => {
    if (!isOpen) return;
    if (event.key === "Escape") {
      event.preventDefault();
      close();
    }
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      moveFocus(list.current, step);
    }
  };
  const onFocusOut = (event) => {
    if (!box.current.contains(event.relatedTarget)) setOpen(false);
  };
  const choose = (item) => {
    close();
    item.act();
  };
  return html`<div ref=${box} class="menu" onKeyDown=${onKeyDown} onFocusOut=${onFocusOut}>
    <${IconButton}
      icon="more"
      label=${label}
      aria-haspopup="menu"
      aria-expanded=${isOpen ? "true" : "false"}
      onClick=${() => setOpen(!isOpen)}
    />
    ${
      isOpen &&
      html`<div ref=${list} class="menu-list" role="menu">
      ${items.map(
        (item) => html`<button
          type="button"
          role="menuitem"
          class=${item.isDanger ? "is-danger" : ""}
          onClick=${() => choose(item)}
        >
          ${item.text}
        </button>`,
      )}
    </div>`
    }
  </div>`;
}

function moveFocus(list, step) {
  const buttons = [...list.querySelectorAll("button")];
  const place = buttons.indexOf(document.activeElement) + step;
  buttons[(place + buttons.length) % buttons.length].focus();
}
