/** Icons drawn for this page: 20 × 20, one stroke, the colour of the text around them. */

import { html } from "../preact.js";

const PATHS = {
  check: "M4.5 10.5l3.5 3.5 7.5-8",
  chevron: "M6 8l4 4 4-4",
  close: "M5.5 5.5l9 9M14.5 5.5l-9 9",
  copy: "M7.5 7.5h8v8h-8zM12.5 7.5v-3h-8v8h3",
  down: "M10 4.5v11M5.5 11l4.5 4.5 4.5-4.5",
  edit: "M4.5 15.5l.6-3L12.6 5a1.4 1.4 0 012 0l.4.4a1.4 1.4 0 010 2l-7.5 7.5zM11.5 6l2.5 2.5",
  language:
    "M3.5 5.5h8M7.5 3.5v2M9.8 5.5c-.6 3-2.8 5.2-5.8 6.5M5.2 8c1.2 2 2.8 3.3 4.6 4" +
    "M9.5 16.5l3.5-8 3.5 8M10.7 14h4.6",
  left: "M12 5l-5 5 5 5",
  menu: "M3.5 6h13M3.5 10h13M3.5 14h13",
  moon: "M15.8 11.8A6.3 6.3 0 018.2 4.2a6.3 6.3 0 107.6 7.6z",
  more: "M5 10h.01M10 10h.01M15 10h.01",
  plus: "M10 4.5v11M4.5 10h11",
  refresh: "M15.5 8.5a5.8 5.8 0 10.3 3M15.8 4.5v4h-4",
  right: "M8 5l5 5-5 5",
  search: "M13 13l3.5 3.5M9 14a5 5 0 110-10 5 5 0 010 10z",
  send: "M10 15.5v-11M5.5 9L10 4.5 14.5 9",
  settings: "M4 6.5h6M14 6.5h2M4 13.5h2M10 13.5h6M12 4.7v3.6M8 11.7v3.6",
  sidebar: "M3.5 4.5h13v11h-13zM8 4.5v11",
  sun:
    "M10 13a3 3 0 100-6 3 3 0 000 6zM10 2.8v1.4M10 15.8v1.4M2.8 10h1.4M15.8 10h1.4" +
    "M4.9 4.9l1 1M14.1 14.1l1 1M15.1 4.9l-1 1M5.9 14.1l-1 1",
  system: "M3.5 4.5h13v9h-13zM7.5 16.5h5",
  warning: "M10 4l7 12H3zM10 8.5v3.5M10 14h.01",
};

/** @param {{name: keyof typeof PATHS}} properties */
export function Icon({ name }) {
  return html`<svg
    class="icon"
    viewBox="0 0 20 20"
    aria-hidden="true"
  >
    <path d=${PATHS[name]} />
  </svg>`;
}

/** The mark: 元, the first character of 元年, "year one". */
export function Mark() {
  return html`<svg class="mark" viewBox="0 0 24 24" aria-hidden="true">
    <path d="M7 6h10M4.5 11h15M9.8 11c0 4-1.3 6.4-5 8" />
    <path d="M14.2 11v5.6c0 1.5.5 2.1 2 2.1h1c1.3 0 1.9-.7 2.1-2.4" />
  </svg>`;
}

/** A button that shows only an icon; `label` names it to everyone else. */
export function IconButton({ icon, label, ...rest }) {
  return html`<button
    type="button"
    class="icon-button"
    aria-label=${label}
    title=${label}
    ...${rest}
  >
    <${Icon} name=${icon} />
  </button>`;
}
