/** Sampling, instructions, key, language and theme; every change holds at once. */

import { LANGUAGES } from "../i18n.js";
import { html, memo, useEffect, useRef } from "../preact.js";
import { DEFAULTS } from "../settings.js";
import { Choice, NumberField, Slider, TextField } from "./fields.js";
import { IconButton } from "./icons.js";
import { usePage } from "./page.js";

const SAMPLING = ["temperature", "topP", "maxTokens", "seed", "systemPrompt"];

export const SettingsDialog = memo(({ isOpen, settings }) => {
  const { actions, t } = usePage();
  const dialog = useRef();
  useEffect(() => {
    if (isOpen && !dialog.current.open) dialog.current.showModal();
    if (!isOpen) dialog.current.close();
  }, [isOpen]);
  const close = () => actions.set({ isSettingsOpen: false });
  const field = (name) => ({
    name,
    label: t(`settings.${name}`),
    value: settings[name],
    onChange: (value) => actions.setSettings({ [name]: value }),
  });
  const reset = () =>
    actions.setSettings(Object.fromEntries(SAMPLING.map((name) => [name, DEFAULTS[name]])));
  const onClick = (event) => event.target === dialog.current && close();
  return html`<dialog
    ref=${dialog}
    class="settings"
    aria-labelledby="settings-title"
    onClose=${close}
    onClick=${onClick}
  >
    <form method="dialog" class="settings-inner">
      <header>
        <h2 id="settings-title">${t("settings.title")}</h2>
        <${IconButton} icon="close" label=${t("close")} onClick=${close} />
      </header>
      <section>
        <h3>${t("settings.answers")}</h3>
        <${TextField}
          ...${field("systemPrompt")}
          rows="3"
          placeholder=${t("settings.systemPrompt.example")}
        />
        <${Slider}
          ...${field("temperature")}
          min="0"
          max="2"
          step="0.05"
          help=${t("settings.temperature.help")}
        />
        <${Slider}
          ...${field("topP")}
          min="0.05"
          max="1"
          step="0.05"
          help=${t("settings.topP.help")}
        />
        <div class="field-pair">
          <${NumberField}
            ...${field("maxTokens")}
            min="1"
            placeholder=${t("settings.maxTokens.none")}
          />
          <${NumberField} ...${field("seed")} min="0" placeholder=${t("settings.seed.none")} />
        </div>
        <button type="button" class="button" onClick=${reset}>${t("settings.reset")}</button>
      </section>
      <section>
        <h3>${t("settings.page")}</h3>
        <div class="field-pair">
          <${Choice}
            ...${field("language")}
            options=${{ "": t("settings.language.browser"), ...LANGUAGES }}
          />
          <${Choice}
            ...${field("theme")}
            options=${{ "": t("theme.system"), light: t("theme.light"), dark: t("theme.dark") }}
          />
        </div>
        <${TextField}
          ...${field("apiKey")}
          type="password"
          help=${t("settings.apiKey.help")}
          onDone=${actions.connect}
        />
      </section>
    </form>
  </dialog>`;
});
