/** The whole page: sidebar, header, conversation, composer, and what lies above them. */

import { html, useEffect, useLayoutEffect, useMemo, useState } from "../preact.js";
import { Composer } from "./composer.js";
import { ConnectionNotice } from "./connection_notice.js";
import { EmptyState } from "./empty_state.js";
import { Header } from "./header.js";
import { MessageList } from "./message_list.js";
import { PageContext } from "./page.js";
import { SettingsDialog } from "./settings_dialog.js";
import { useShortcuts } from "./shortcuts.js";
import { Sidebar } from "./sidebar.js";
import { Toast } from "./toast.js";

export function Root({ store, actions, t, language }) {
  const [state, setState] = useState(store.get());
  // Before the first frame: news between the drawing and a later subscription would be lost.
  useLayoutEffect(() => store.subscribe(setState), [store]);
  useShortcuts(store, actions);
  const page = useMemo(() => ({ actions, t, language }), [actions, t, language]);
  const { settings } = state;
  useLayoutEffect(() => {
    const { dataset } = document.documentElement;
    if (settings.theme) dataset.theme = settings.theme;
    else delete dataset.theme;
    document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  }, [settings.theme, language]);

  const conversation = state.conversations[state.openId];
  useEffect(() => {
    document.title = conversation ? `${conversation.title} · Yearling` : "Yearling";
  }, [conversation?.title]);

  const layout = `layout${settings.isSidebarOpen ? "" : " layout-wide"}`;
  return html`<${PageContext.Provider} value=${page}>
    <div class=${layout}>
      <a class="skip-link" href="#composer" onClick=${focusComposer}>${t("skip")}</a>
      <${Sidebar}
        conversations=${state.conversations}
        openId=${state.openId}
        running=${state.running}
        isDrawerOpen=${state.isDrawerOpen}
        theme=${settings.theme}
      />
      <main class="main">
        <${Header}
          models=${state.models}
          chosen=${settings.model}
          isSidebarOpen=${settings.isSidebarOpen}
        />
        ${
          conversation
            ? html`<${MessageList}
              key=${conversation.id}
              conversation=${conversation}
              runningId=${state.running[conversation.id]}
            />`
            : html`<${EmptyState} canSend=${state.connection === "up"} />`
        }
        <div class="dock">
          <${ConnectionNotice} connection=${state.connection} />
          <${Composer}
            key=${state.openId ?? "new"}
            isRunning=${state.openId in state.running}
            canSend=${state.connection === "up"}
          />
        </div>
      </main>
      <${SettingsDialog} isOpen=${state.isSettingsOpen} settings=${settings} />
      <${Toast} toast=${state.toast} />
      <div class="visually-hidden" role="status">${state.announcement}</div>
    </div>
  <//>`;
}

function focusComposer(event) {
  event.preventDefault();
  document.getElementById("composer")?.focus();
}
