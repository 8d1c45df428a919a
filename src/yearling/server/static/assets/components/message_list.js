/** The messages of a conversation, in a box that follows a growing answer. */

import { shownPath } from "../conversation.js";
import { html, useRef } from "../preact.js";
import { Answer } from "./answer.js";
import { useAutoscroll } from "./autoscroll.js";
import { IconButton } from "./icons.js";
import { usePage } from "./page.js";
import { Question } from "./question.js";

export function MessageList({ conversation, runningId }) {
  const { t } = usePage();
  const box = useRef();
  const content = useRef();
  const path = shownPath(conversation);
  const questions = path.filter((node) => node.role === "user").length;
  const { isAway, goToEnd } = useAutoscroll(box, content, questions);
  const branches = countBranches(conversation);
  return html`<div class="messages-frame">
    <div ref=${box} class="messages" tabindex="-1">
      <div
        ref=${content}
        class="column"
        role="log"
        aria-live="off"
        aria-label=${t("messages.label")}
        aria-busy=${runningId ? "true" : "false"}
      >
        ${path.map((node) => {
          const { place, count } = branches[node.id];
          return html`<${node.role === "user" ? Question : Answer}
            key=${node.id}
            node=${node}
            place=${place}
            count=${count}
            isRunning=${node.id === runningId}
            isBusy=${Boolean(runningId)}
          />`;
        })}
      </div>
    </div>
    ${isAway && html`<${IconButton}
      class="icon-button to-end"
      icon="down"
      label=${t("messages.end")}
      onClick=${goToEnd}
    />`}
  </div>`;
}

/** Each message's place among its siblings, from 1, and how many they are. */
function countBranches(conversation) {
  const counts = {};
  const branches = {};
  for (const { id, parentId } of Object.values(conversation.nodes)) {
    counts[parentId] = (counts[parentId] ?? 0) + 1;
    branches[id] = { place: counts[parentId], parentId };
  }
  for (const branch of Object.values(branches)) branch.count = counts[branch.parentId];
  return branches;
}
