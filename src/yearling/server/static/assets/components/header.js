/** The bar above a conversation: sidebar, model, new chat, settings. */

import { html } from "../preact.js";
import { Icon, IconButton } from "./icons.js";
import { usePage } from "./page.js";

export function Header({ models, chosen, isSidebarOpen }) {
  const { actions, t } = usePage();
  const openSidebar = () => {
    actions.setSettings({ isSidebarOpen: true });
    actions.set({ isDrawerOpen: true });
  };
  return html`<header class="header">
    <${IconButton}
      class=${`icon-button open-sidebar${isSidebarOpen ? " narrow-only" : ""}`}
      icon="sidebar"
      label=${t("sidebar.open")}
      onClick=${openSidebar}
    />
    <label class="model-picker">
      <span class="visually-hidden">${t("model.label")}</span>
      <select
        value=${models.includes(chosen) ? chosen : models[0]}
        disabled=${!models.length}
        onChange=${(event) => actions.setSettings({ model: event.target.value })}
      >
        ${models.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
        ${!models.length && html`<option value="">${t("model.none")}</option>`}
      </select>
      <${Icon} name="chevron" />
    </label>
    <span class="spacer"></span>
    <${IconButton}
      class=${`icon-button${isSidebarOpen ? " narrow-only" : ""}`}
      icon="plus"
      label=${t("chat.new")}
      onClick=${() => actions.open(null)}
    />
    <${IconButton}
      icon="settings"
      label=${t("settings.title")}
      onClick=${() => actions.set({ isSettingsOpen: true })}
    />
  </header>`;
}
