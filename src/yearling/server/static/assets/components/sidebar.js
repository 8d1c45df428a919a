/** The conversations kept in this browser, and the switches of theme and language. */

import { html, memo, useEffect, useMemo, useRef, useState } from "../preact.js";
import { ConversationRow } from "./conversation_row.js";
import { Icon, IconButton, Mark } from "./icons.js";
import { usePage } from "./page.js";

const DAY_MILLISECONDS = 86_400_000;
const SEARCH_FROM = 6; // with fewer conversations, eyes are faster
const THEMES = { system: "light", light: "dark", dark: "system" };
const THEME_ICONS = { system: "system", light: "sun", dark: "moon" };

export const Sidebar = memo(({ conversations, openId, running, isDrawerOpen, theme }) => {
  const { actions, t, language } = usePage();
  const [query, setQuery] = useState("");
  const groups = useMemo(() => group(conversations, query), [conversations, query]);
  const panel = useRef();
  useEffect(() => isDrawerOpen && panel.current.querySelector("button").focus(), [isDrawerOpen]);
  const close = () => {
    actions.set({ isDrawerOpen: false });
    if (!matchMedia("(max-width: 767px)").matches) actions.setSettings({ isSidebarOpen: false });
  };
  const themeName = theme ?? "system";
  const nextTheme = THEMES[themeName];
  return html`
    <div
      class="backdrop"
      hidden=${!isDrawerOpen}
      onClick=${() => actions.set({ isDrawerOpen: false })}
    ></div>
    <nav
      ref=${panel}
      class=${`sidebar${isDrawerOpen ? " is-open" : ""}`}
      aria-label=${t("sidebar.label")}
    >
      <div class="sidebar-top">
        <span class="brand"><${Mark} />Yearling</span>
        <${IconButton} icon="sidebar" label=${t("sidebar.close")} onClick=${close} />
      </div>
      <button type="button" class="new-chat" onClick=${() => startChat(actions)}>
        <${Icon} name="plus" />${t("chat.new")}<kbd aria-hidden="true">${shortcut()}</kbd>
      </button>
      ${
        Object.keys(conversations).length >= SEARCH_FROM &&
        html`<label class="search">
        <${Icon} name="search" />
        <span class="visually-hidden">${t("sidebar.search")}</span>
        <input
          type="search"
          placeholder=${t("sidebar.search")}
          value=${query}
          onInput=${(event) => setQuery(event.target.value)}
        />
      </label>`
      }
      <div class="conversations">
        ${groups.map(
          ([name, rows]) => html`<section key=${name}>
            <h2>${t(`group.${name}`)}</h2>
            <ul>
              ${rows.map(
                (one) => html`<${ConversationRow}
                  key=${one.id}
                  id=${one.id}
                  title=${one.title}
                  isOpen=${one.id === openId}
                  isRunning=${one.id in running}
                />`,
              )}
            </ul>
          </section>`,
        )}
        ${!groups.length && html`<p class="sidebar-empty">
          ${t(query ? "sidebar.nothing" : "sidebar.empty")}
        </p>`}
      </div>
      <div class="sidebar-foot">
        <button
          type="button"
          class="foot-button"
          onClick=${() => actions.setSettings({ theme: nextTheme === "system" ? null : nextTheme })}
        >
          <${Icon} name=${THEME_ICONS[themeName]} />${t(`theme.${themeName}`)}
        </button>
        <button
          type="button"
          class="foot-button"
          lang=${language === "zh" ? "en" : "zh-CN"}
          onClick=${() => actions.setSettings({ language: language === "zh" ? "en" : "zh" })}
        >
          <${Icon} name="language" />${language === "zh" ? "English" : "中文"}
        </button>
      </div>
    </nav>
  `;
});

function startChat(actions) {
  actions.open(null);
  requestAnimationFrame(() => document.getElementById("composer")?.focus());
}

function shortcut() {
  return /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘K" : "Ctrl K";
}

/** Conversations that hold the query, newest first, by age: [name, conversations] pairs. */
function group(conversations, query) {
  const wanted = query.trim().toLowerCase();
  const found = Object.values(conversations).filter((one) => !wanted || holds(one, wanted));
  found.sort((one, other) => other.updatedAt - one.updatedAt);
  const midnight = new Date().setHours(0, 0, 0, 0);
  const groups = { today: [], week: [], earlier: [] };
  for (const one of found) {
    if (one.updatedAt >= midnight) groups.today.push(one);
    else if (one.updatedAt >= midnight - 6 * DAY_MILLISECONDS) groups.week.push(one);
    else groups.earlier.push(one);
  }
  return Object.entries(groups).filter(([, rows]) => rows.length);
}

function holds(conversation, wanted) {
  const texts = Object.values(conversation.nodes).map((node) => node.text);
  return [conversation.title, ...texts].some((text) => text.toLowerCase().includes(wanted));
}
