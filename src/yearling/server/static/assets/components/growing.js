/** Text fields as high as their text, also in browsers whose CSS cannot say so. */

import { useLayoutEffect } from "../preact.js";

const CAN_CSS = CSS.supports("field-sizing", "content");

/** @param {{current: HTMLTextAreaElement}} field  @param {string} text What it holds. */
export function useGrowing(field, text) {
  useLayoutEffect(() => {
    if (CAN_CSS || !field.current) return;
    field.current.style.height = "auto";
    field.current.style.height = `${field.current.scrollHeight}px`;
  }, [text]);
}
