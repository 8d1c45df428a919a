/** Keeps the store's conversations in the database as they change. */

const DELAY_MILLISECONDS = 400;

/**
 * Writes changed conversations shortly after they change, and at once when an answer ends or
 * the page is left.
 *
 * @param {ReturnType<import("./store.js").createStore>} store
 * @param {Awaited<ReturnType<import("./database.js").openDatabase>>} database
 */
export function keepConversations(store, database) {
  let saved = store.get().conversations;
  let running = store.get().running;
  let timer = null;

  async function save() {
    clearTimeout(timer);
    timer = null;
    const { conversations } = store.get();
    const before = saved;
    saved = conversations;
    const changed = Object.values(conversations).filter((one) => one !== before[one.id]);
    const removed = Object.keys(before).filter((id) => !(id in conversations));
    await Promise.all([...changed.map(database.put), ...removed.map(database.remove)]);
  }

  store.subscribe((state) => {
    const hasTurned = state.running !== running; // an answer began or ended
    running = state.running;
    if (hasTurned) save();
    else if (state.conversations !== saved) timer ??= setTimeout(save, DELAY_MILLISECONDS);
  });
  document.addEventListener("visibilitychange", () => document.hidden && save());
  addEventListener("pagehide", save);
}
