/** Starts the page: state from the browser, texts, actions, and the first drawing. */

import { createActions } from "./actions.js";
import { Root } from "./components/root.js";
import { settle } from "./conversation.js";
import { openDatabase } from "./database.js";
import { loadTranslator, resolveLanguage } from "./i18n.js";
import { keepConversations } from "./persistence.js";
import { html, render } from "./preact.js";
import { loadSettings } from "./settings.js";
import { createStore } from "./store.js";

async function start() {
  const settings = loadSettings();
  const [database, firstTranslator] = await Promise.all([
    openDatabase(),
    loadTranslator(resolveLanguage(settings.language)),
  ]);
  const records = await database.all();
  const conversations = Object.fromEntries(records.map((one) => [one.id, settle(one)]));
  const store = createStore({
    conversations,
    openId: conversationInAddress(conversations),
    running: {},
    models: [],
    connection: "connecting",
    settings,
    isDrawerOpen: false,
    isSettingsOpen: false,
    toast: database.isLasting ? null : { text: firstTranslator("toast.forgetful") },
    announcement: "",
  });
  let translator = firstTranslator;
  const actions = createActions(store, () => translator);
  keepConversations(store, database);
  const draw = () => {
    const {
      settings: { language: chosen },
    } = store.get();
    const language = resolveLanguage(chosen);
    render(
      html`<${Root} store=${store} actions=${actions} t=${translator} language=${language} />`,
      place,
    );
  };
  const place = document.getElementById("app");
  followLanguage(store, resolveLanguage(settings.language), (loaded) => {
    translator = loaded;
    draw();
  });
  addEventListener("hashchange", () =>
    actions.open(conversationInAddress(store.get().conversations)),
  );
  draw();
  actions.connect();
}

function conversationInAddress(conversations) {
  const id = location.hash.slice(1);
  return id in conversations ? id : null;
}

function followLanguage(store, first, use) {
  let shown = first;
  store.subscribe(async ({ settings }) => {
    const language = resolveLanguage(settings.language);
    if (language === shown) return;
    shown = language;
    const translator = await loadTranslator(language);
    if (shown === language) use(translator);
  });
}

start();
