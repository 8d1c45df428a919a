/** Form fields with their labels; every change is told at once. */

import { html } from "../preact.js";

function Field({ name, label, help, children, aside }) {
  return html`<div class="field">
    <div class="field-head"><label for=${`field-${name}`}>${label}</label>${aside}</div>
    ${children}
    ${help && html`<p class="help">${help}</p>`}
  </div>`;
}

export function Slider({ name, label, value, help, onChange, min, max, step }) {
  return html`<${Field}
    name=${name}
    label=${label}
    help=${help}
    aside=${html`<output>${value}</output>`}
  >
    <input
      id=${`field-${name}`}
      type="range"
      min=${min}
      max=${max}
      step=${step}
      value=${value}
      onInput=${(event) => onChange(Number(event.target.value))}
    />
  <//>`;
}

/** A whole number, or null when the field is empty or holds none in range. */
export function NumberField({ name, label, value, onChange, min, placeholder }) {
  const read = ({ target }) => {
    const isNumber = target.value !== "" && target.checkValidity();
    onChange(isNumber ? Number(target.value) : null);
  };
  return html`<${Field} name=${name} label=${label}>
    <input
      id=${`field-${name}`}
      type="number"
      inputmode="numeric"
      step="1"
      min=${min}
      placeholder=${placeholder}
      value=${value ?? ""}
      onInput=${read}
    />
  <//>`;
}

export function TextField({ name, label, value, help, onChange, onDone, rows, type, placeholder }) {
  const shared = {
    id: `field-${name}`,
    value,
    placeholder,
    onInput: (event) => onChange(event.target.value),
    onChange: onDone,
  };
  return html`<${Field} name=${name} label=${label} help=${help}>
    ${
      rows
        ? html`<textarea rows=${rows} ...${shared}></textarea>`
        : html`<input type=${type ?? "text"} autocomplete="off" ...${shared} />`
    }
  <//>`;
}

/** One of several values; the option "" stands for null. */
export function Choice({ name, label, value, options, onChange }) {
  return html`<${Field} name=${name} label=${label}>
    <select
      id=${`field-${name}`}
      value=${value ?? ""}
      onChange=${(event) => onChange(event.target.value || null)}
    >
      ${Object.entries(options).map(([key, text]) => html`<option
        key=${key}
        value=${key}
      >
        ${text}
      </option>`)}
    </select>
  <//>`;
}
