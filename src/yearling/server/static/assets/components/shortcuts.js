/** Keys that work wherever the focus is. */

import { useEffect } from "../preact.js";

/** Ctrl or ⌘ with K starts a new chat; Escape closes the drawer, or stops the answer. */
export function useShortcuts(store, actions) {
  useEffect(() => {
    const onKey = (event) => {
      if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
        event.preventDefault();
        actions.open(null);
        requestAnimationFrame(() => document.getElementById("composer")?.focus());
      } else if (
        event.key === "Escape" &&
        !event.defaultPrevented &&
        !document.querySelector("dialog[open]")
      ) {
        if (store.get().isDrawerOpen) actions.set({ isDrawerOpen: false });
        else actions.stop();
      }
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [store, actions]);
}
