/** One answer, from the request to its last piece. */

import { ApiError, streamChat } from "./api.js";
import { changeNode, pathTo, requestMessages } from "./conversation.js";
import { samplingFields } from "./settings.js";

/**
 * Streams an answer into its node; never throws: a failure is told by the node itself.
 *
 * @param {ReturnType<import("./store.js").createStore>} store
 * @param {{conversationId: string, nodeId: string, model: string, signal: AbortSignal}} job
 */
export async function generate(store, { conversationId, nodeId, model, signal }) {
  const { settings, conversations } = store.get();
  const conversation = conversations[conversationId];
  const path = pathTo(conversation, conversation.nodes[nodeId].parentId);
  const body = {
    model,
    messages: requestMessages(path, settings.systemPrompt),
    ...samplingFields(settings),
  };
  const clock = createClock();
  const answer = { text: "", finish: undefined };
  const show = (change) => changeAnswer(store, conversationId, nodeId, change);
  try {
    for await (const piece of fittingAnswer(body, { apiKey: settings.apiKey, signal })) {
      if (piece.text) clock.tick();
      answer.text += piece.text ?? "";
      answer.finish = piece.finish ?? answer.finish;
      if (piece.tokens) clock.count(piece.tokens);
      if (piece.text) show({ text: answer.text });
    }
    show({ finish: answer.finish === "length" ? "length" : "stop", speed: clock.speed() });
  } catch (error) {
    show({ ...ending(error), speed: clock.speed() });
  }
}

// The longest answer is a wish, the context window a fact: what does not fit with the limit may
// fit without it, for the server then fills the room that is left.
async function* fittingAnswer(body, options) {
  try {
    yield* streamChat(body, options);
  } catch (error) {
    if (error.kind !== "context" || body.max_tokens === undefined) throw error;
    const { max_tokens: _, ...rest } = body;
    yield* streamChat(rest, options);
  }
}

function changeAnswer(store, conversationId, nodeId, change) {
  store.set(({ conversations }) => {
    const conversation = conversations[conversationId];
    if (!conversation?.nodes[nodeId]) return {}; // deleted while it was answering
    const changed = changeNode(conversation, nodeId, change);
    return { conversations: { ...conversations, [conversationId]: changed } };
  });
}

function ending(error) {
  if (error.name === "AbortError") return { finish: "stopped" };
  const { kind, message } =
    error instanceof ApiError ? error : { kind: "server", message: `${error}` };
  return { finish: "error", error: { kind, message } };
}

/** Measures an answer as the user sees it; times are seconds since the request. */
function createClock() {
  const start = performance.now();
  let first = 0;
  let last = 0;
  let pieces = 0;
  let counted = null;
  return {
    tick() {
      last = (performance.now() - start) / 1000;
      first ||= last;
      pieces += 1;
    },
    count(tokens) {
      counted = tokens;
    },
    /** @returns {import("./conversation.js").Speed|undefined} */
    speed() {
      if (!pieces) return undefined;
      const tokens = counted ?? pieces;
      const perSecond = last > first ? (tokens - 1) / (last - first) : 0;
      return { tokens, isEstimate: counted === null, firstSeconds: first, perSecond };
    },
  };
}
