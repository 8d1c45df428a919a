/** Keeps a growing text's end in view until the user scrolls up, and again when they return. */

import { useEffect, useLayoutEffect, useRef, useState } from "../preact.js";

const NEAR_PIXELS = 48;

/**
 * @param {{current: HTMLElement}} box The element that scrolls.
 * @param {{current: HTMLElement}} content The element that grows.
 * @param {unknown} occasion A new value (a question was asked) goes to the end in any case.
 * @returns {{isAway: boolean, goToEnd: () => void}}
 */
export function useAutoscroll(box, content, occasion) {
  const [isAway, setAway] = useState(false);
  const isFollowing = useRef(true);
  const lastTop = useRef(0);

  useEffect(() => {
    const element = box.current;
    const toEnd = () => {
      if (isFollowing.current) element.scrollTop = element.scrollHeight;
    };
    const onScroll = () => {
      const remaining = element.scrollHeight - element.scrollTop - element.clientHeight;
      // Only moving up is the user's doing; the end also moves away when the text grows.
      if (element.scrollTop < lastTop.current && remaining > NEAR_PIXELS)
        isFollowing.current = false;
      if (remaining <= NEAR_PIXELS) isFollowing.current = true;
      lastTop.current = element.scrollTop;
      setAway(!isFollowing.current);
    };
    const observer = new ResizeObserver(toEnd);
    observer.observe(content.current);
    observer.observe(element);
    element.addEventListener("scroll", onScroll, { passive: true });
    return () => {
      observer.disconnect();
      element.removeEventListener("scroll", onScroll);
    };
  }, []);

  const goToEnd = () => {
    isFollowing.current = true;
    box.current.scrollTop = box.current.scrollHeight;
  };
  useLayoutEffect(goToEnd, [occasion]);
  return { isAway, goToEnd };
}
