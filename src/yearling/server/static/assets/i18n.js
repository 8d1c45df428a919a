/** Texts of the page in the user's language, from `i18n/<language>.json`. */

export const LANGUAGES = { en: "English", zh: "中文" };

/** The language to use: the one chosen, or the browser's. @returns {"en"|"zh"} */
export function resolveLanguage(chosen) {
  return chosen ?? (navigator.language?.toLowerCase().startsWith("zh") ? "zh" : "en");
}

/**
 * Loads a catalogue.
 * @returns {Promise<(key: string, values?: Record<string, unknown>) => string>} The function
 *   that looks a text up and fills its {places}; an unknown key is an error.
 */
export async function loadTranslator(language) {
  const response = await fetch(new URL(`./i18n/${language}.json`, import.meta.url));
  const catalogue = await response.json();
  return (key, values = {}) => {
    if (!(key in catalogue)) throw new Error(`no text for "${key}" in i18n/${language}.json`);
    return catalogue[key].replace(/\{(\w+)\}/g, (_, place) => values[place]);
  };
}

/** A number as the language writes it, with at most `digits` decimals. */
export function formatNumber(language, value, digits = 0) {
  return new Intl.NumberFormat(language, { maximumFractionDigits: digits }).format(value);
}
