/** Preact and htm as the components use them. */

import { Component, html } from "./vendor/htm-preact/standalone.module.js";

export {
  createContext,
  html,
  render,
  useContext,
  useEffect,
  useLayoutEffect,
  useMemo,
  useRef,
  useState,
} from "./vendor/htm-preact/standalone.module.js";

/** A component that draws again only when one of its properties is another value. */
export function memo(draw) {
  return class extends Component {
    shouldComponentUpdate(next) {
      const names = Object.keys({ ...this.props, ...next });
      return names.some((name) => this.props[name] !== next[name]);
    }

    render(properties) {
      return html`<${draw} ...${properties} />`;
    }
  };
}
