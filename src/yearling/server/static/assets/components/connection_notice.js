/** Above the composer when the server is away, or wants a key. */

import { html, useState } from "../preact.js";
import { Icon } from "./icons.js";
import { usePage } from "./page.js";

export function ConnectionNotice({ connection }) {
  const { t } = usePage();
  if (connection === "unauthorized") return html`<${KeyForm} />`;
  if (connection !== "offline") return null;
  return html`<div class="notice" role="alert">
    <${Icon} name="warning" />
    <span><strong>${t("error.offline")}</strong> ${t("notice.retrying")}</span>
  </div>`;
}

function KeyForm() {
  const { actions, t } = usePage();
  const [key, setKey] = useState("");
  const submit = (event) => {
    event.preventDefault();
    actions.setSettings({ apiKey: key.trim() });
    actions.connect();
  };
  return html`<form class="notice" onSubmit=${submit}>
    <${Icon} name="warning" />
    <label for="notice-key"><strong>${t("error.unauthorized")}</strong> ${t("notice.key")}</label>
    <input
      id="notice-key"
      type="password"
      autocomplete="off"
      value=${key}
      onInput=${(event) => setKey(event.target.value)}
    />
    <button
      type="submit"
      class="button is-primary"
      disabled=${!key.trim()}
    >
      ${t("notice.use_key")}
    </button>
  </form>`;
}
