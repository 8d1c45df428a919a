/** The state of the page, and news of its changes at most once a frame. */

/**
 * @typedef {object} State
 * @property {Record<string, import("./conversation.js").Conversation>} conversations By id.
 * @property {string|null} openId The conversation shown; null is a new one.
 * @property {Record<string, string>} running Id of the growing answer, by conversation id.
 * @property {string[]} models
 * @property {"connecting"|"up"|"offline"|"unauthorized"} connection
 * @property {import("./settings.js").Settings} settings
 * @property {boolean} isDrawerOpen The sidebar on narrow windows.
 * @property {boolean} isSettingsOpen
 * @property {{text: string, undo?: () => void}|null} toast
 * @property {string} announcement For screen readers.
 */

/**
 * @param {State} initial
 */
export function createStore(initial) {
  let state = initial;
  let isScheduled = false;
  const listeners = new Set();
  const tell = () => {
    isScheduled = false;
    listeners.forEach((listener) => listener(state));
  };
  // A frame asked for just before the page was hidden would come only when it is shown again.
  document.addEventListener("visibilitychange", () => document.hidden && tell());
  return {
    /** @returns {State} */
    get: () => state,

    /** Takes a change, or a function from the state to a change. */
    set(change) {
      state = { ...state, ...(typeof change === "function" ? change(state) : change) };
      if (isScheduled) return;
      isScheduled = true;
      schedule(tell);
    },

    /** @returns {() => void} Ends the subscription. */
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

// A hidden page gets no animation frames, and its answers must still be kept.
function schedule(work) {
  if (document.hidden) setTimeout(work, 250);
  else requestAnimationFrame(work);
}
