/** Everything a user can do; components call these and hold no logic of their own. */

import { listModels } from "./api.js";
import * as conversation from "./conversation.js";
import { exportFile } from "./export.js";
import { generate } from "./generation.js";
import { saveSettings } from "./settings.js";

const RETRY_MILLISECONDS = 3000;

/**
 * @param {ReturnType<import("./store.js").createStore>} store
 * @param {() => (key: string, values?: object) => string} translator Of the language shown now.
 */
export function createActions(store, translator) {
  /** @type {Map<string, AbortController>} By conversation id. */
  const controllers = new Map();
  let retry = null;
  const openConversation = () => store.get().conversations[store.get().openId];

  function keep(changed) {
    store.set(({ conversations }) => ({
      conversations: { ...conversations, [changed.id]: changed },
    }));
  }

  function model() {
    const { settings, models } = store.get();
    return models.includes(settings.model) ? settings.model : models[0];
  }

  function setSettings(change) {
    const settings = { ...store.get().settings, ...change };
    saveSettings(settings);
    store.set({ settings });
  }

  /** Asks the server for its models, and again while it does not answer. */
  async function connect() {
    clearTimeout(retry);
    try {
      const models = await listModels(store.get().settings.apiKey);
      store.set({ models, connection: "up" });
    } catch (error) {
      const isLocked = error.kind === "unauthorized";
      store.set({ connection: isLocked ? "unauthorized" : "offline" });
      if (!isLocked) retry = setTimeout(connect, RETRY_MILLISECONDS);
    }
  }

  function open(id) {
    store.set({ openId: id, isDrawerOpen: false });
    history.replaceState(null, "", id ? `#${id}` : location.pathname);
  }

  async function answer(target, parentId) {
    const [grown, node] = conversation.addNode(target, parentId, {
      role: "assistant",
      model: model(),
    });
    keep(grown);
    const controller = new AbortController();
    controllers.set(grown.id, controller);
    store.set(({ running }) => ({
      running: { ...running, [grown.id]: node.id },
      announcement: translator()("announce.answering"),
    }));
    const { signal } = controller;
    await generate(store, {
      conversationId: grown.id,
      nodeId: node.id,
      model: model() ?? "",
      signal,
    });
    controllers.delete(grown.id);
    const failure = store.get().conversations[grown.id]?.nodes[node.id].error;
    if (["offline", "unauthorized"].includes(failure?.kind)) connect();
    store.set(({ running: { [grown.id]: _, ...running } }) => ({
      running,
      announcement: translator()("announce.done"),
    }));
  }

  function ask(target, parentId, text) {
    const [grown, question] = conversation.addNode(target, parentId, { role: "user", text });
    return answer(grown, question.id);
  }

  // Streams break before the page is gone, and would be taken for a server that does not answer.
  // Phones tell of leaving only by pagehide.
  for (const leaving of ["beforeunload", "pagehide"]) {
    addEventListener(leaving, () => controllers.forEach((controller) => controller.abort()));
  }

  function isBusy() {
    return controllers.has(store.get().openId);
  }

  return {
    setSettings,
    set: (change) => store.set(change),
    model,

    connect,
    open,

    send(text) {
      if (isBusy()) return;
      const target = openConversation() ?? conversation.createConversation(text);
      const last = conversation.shownPath(target).at(-1);
      const done = ask(target, last?.id ?? conversation.ROOT, text);
      open(target.id);
      return done;
    },

    /** Asks the same question again; the older answer stays a branch away. */
    regenerate(id) {
      if (!isBusy()) return answer(openConversation(), openConversation().nodes[id].parentId);
    },

    /** Asks a changed question in place of an old one, which stays a branch away. */
    edit(id, text) {
      if (!isBusy()) return ask(openConversation(), openConversation().nodes[id].parentId, text);
    },

    choose(id, step) {
      keep(conversation.chooseSibling(openConversation(), id, step));
    },

    stop() {
      controllers.get(store.get().openId)?.abort();
    },

    rename(id, title) {
      const shortened = conversation.shorten(title);
      if (shortened) keep({ ...store.get().conversations[id], title: shortened });
    },

    /** Deletes a conversation; the notice that says so can bring it back. */
    remove(id) {
      controllers.get(id)?.abort();
      const { [id]: removed, ...conversations } = store.get().conversations;
      const undo = () => {
        keep(conversation.settle(removed));
        store.set({ toast: null });
      };
      const text = translator()("toast.deleted", { title: removed.title });
      store.set({ conversations, toast: { text, undo } });
      if (store.get().openId === id) open(null);
    },

    /** @param {"json"|"markdown"} format */
    export(id, format) {
      exportFile(store.get().conversations[id], format, translator());
    },
  };
}
