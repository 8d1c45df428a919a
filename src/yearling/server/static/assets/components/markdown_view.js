/** Markdown that may still grow; blocks whose text stays are not drawn again. */

import { createBlockSplitter, renderBlock } from "../markdown.js";
import { html, memo, useLayoutEffect, useMemo, useRef } from "../preact.js";
import { usePage } from "./page.js";

export function MarkdownView({ text, isGrowing }) {
  const split = useMemo(createBlockSplitter, []);
  const blocks = split(text);
  return html`<div class=${`prose${isGrowing && text ? " is-growing" : ""}`}>
    ${blocks.map((block, index) => {
      const isLast = index === blocks.length - 1;
      return html`<${BlockView}
        key=${index}
        raw=${block.raw}
        block=${block}
        isGrowing=${isGrowing && isLast}
      />`;
    })}
  </div>`;
}

const BlockView = memo(({ block, isGrowing }) => {
  const { t } = usePage();
  const place = useRef();
  useLayoutEffect(() => {
    const labels = { copy: t("copy"), copied: t("copied") };
    place.current.replaceChildren(renderBlock(block, { isGrowing, labels }));
  }, [block.raw, isGrowing, t]);
  return html`<div class="block" ref=${place}></div>`;
});
