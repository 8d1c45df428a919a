// Sets the chosen theme and language before the first paint, so that nothing flashes.
// A classic script: modules run after the first paint, and the policy allows no inline code.
(() => {
  try {
    const settings = JSON.parse(localStorage.getItem("yearling.settings") ?? "{}");
    if (settings.theme === "light" || settings.theme === "dark") {
      document.documentElement.dataset.theme = settings.theme;
    }
    const language = settings.language ?? navigator.language;
    document.documentElement.lang = language?.startsWith("zh") ? "zh-CN" : "en";
  } catch {
    // Storage is closed to us: the system's theme and English are fine.
  }
})();
