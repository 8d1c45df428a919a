/** What the user chose, kept in localStorage. */

const KEY = "yearling.settings";

/**
 * @typedef {object} Settings
 * @property {"en"|"zh"|null} language null follows the browser.
 * @property {"light"|"dark"|null} theme null follows the system.
 * @property {string|null} model null takes the server's first.
 * @property {number} temperature 0 always takes the likeliest token.
 * @property {number} topP Share of the likeliest tokens to draw from.
 * @property {number|null} maxTokens null leaves the length to the model.
 * @property {number|null} seed null draws a fresh one per answer.
 * @property {string} systemPrompt
 * @property {string} apiKey "" sends none.
 * @property {boolean} isSidebarOpen On wide windows.
 */

/** @type {Readonly<Settings>} Cool enough for a small model to stay on its subject. */
export const DEFAULTS = Object.freeze({
  language: null,
  theme: null,
  model: null,
  temperature: 0.3,
  topP: 0.9,
  maxTokens: 1024,
  seed: null,
  systemPrompt: "",
  apiKey: "",
  isSidebarOpen: true,
});

/** @returns {Settings} */
export function loadSettings() {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem(KEY) ?? "{}") };
  } catch {
    return { ...DEFAULTS };
  }
}

/** Keeps only what differs from the defaults, so that better defaults reach old browsers. */
export function saveSettings(settings) {
  const chosen = Object.entries(settings).filter(([name, value]) => value !== DEFAULTS[name]);
  try {
    localStorage.setItem(KEY, JSON.stringify(Object.fromEntries(chosen)));
  } catch {
    // Storage is closed or full: the settings live as long as the page.
  }
}

/** The sampling fields of a request body. */
export function samplingFields({ temperature, topP, maxTokens, seed }) {
  const fields = { temperature, top_p: topP };
  if (maxTokens !== null) fields.max_tokens = maxTokens;
  if (seed !== null) fields.seed = seed;
  return fields;
}
