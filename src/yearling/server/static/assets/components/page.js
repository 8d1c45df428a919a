/** What every component may use without being handed it: actions and texts. */

import { createContext, useContext } from "../preact.js";

/**
 * @typedef {object} Page Changes only with the language.
 * @property {ReturnType<import("../actions.js").createActions>} actions
 * @property {(key: string, values?: object) => string} t
 * @property {"en"|"zh"} language
 */

export const PageContext = createContext(null);

/** @returns {Page} */
export const usePage = () => useContext(PageContext);
