/**
 * A conversation is a tree of messages: editing a question or asking again grows a branch, and
 * nothing said is lost. Every function here is pure: it returns new objects and changes none.
 *
 * @typedef {object} Node One message.
 * @property {string} id
 * @property {string} parentId Id of the message before, or ROOT.
 * @property {"user"|"assistant"} role
 * @property {string} text
 * @property {string} [model] Who answered.
 * @property {"stop"|"length"|"stopped"|"error"} [finish] Absent while the answer still grows.
 * @property {{kind: string, message: string}} [error]
 * @property {Speed} [speed]
 *
 * @typedef {object} Speed
 * @property {number} tokens
 * @property {boolean} isEstimate Counted in pieces, because the server's count never came.
 * @property {number} firstSeconds From sending to the first piece.
 * @property {number} perSecond Tokens a second after the first piece; 0 when there was only one.
 *
 * @typedef {object} Conversation
 * @property {string} id
 * @property {string} title
 * @property {number} updatedAt Milliseconds since the epoch.
 * @property {Record<string, Node>} nodes In the order they were added.
 * @property {Record<string, string>} choices Which child of a message is shown, by parent id.
 */

export const ROOT = "root";
const TITLE_LENGTH = 60;

/** A short id, unique in this browser; `crypto.randomUUID` exists only on secure origins. */
export function createId() {
  const random = Math.floor(Math.random() * 36 ** 6)
    .toString(36)
    .padStart(6, "0");
  return `c${Date.now().toString(36)}${random}`;
}

/** @returns {Conversation} */
export function createConversation(title) {
  return { id: createId(), title: shorten(title), updatedAt: Date.now(), nodes: {}, choices: {} };
}

/** Adds a message below `parentId` and shows it. @returns {[Conversation, Node]} */
export function addNode(conversation, parentId, fields) {
  const node = { id: createId(), parentId, text: "", ...fields };
  const grown = {
    ...conversation,
    updatedAt: Date.now(),
    nodes: { ...conversation.nodes, [node.id]: node },
    choices: { ...conversation.choices, [parentId]: node.id },
  };
  return [grown, node];
}

/** @returns {Conversation} */
export function changeNode(conversation, id, change) {
  const node = { ...conversation.nodes[id], ...change };
  return { ...conversation, nodes: { ...conversation.nodes, [id]: node } };
}

/** The messages below one parent, oldest first. @returns {Node[]} */
export function childrenOf(conversation, parentId) {
  return Object.values(conversation.nodes).filter((node) => node.parentId === parentId);
}

/** The messages shown, from the first to the last. @returns {Node[]} */
export function shownPath(conversation) {
  const path = [];
  let parentId = ROOT;
  for (;;) {
    const id = conversation.choices[parentId];
    if (!id) return path;
    path.push(conversation.nodes[id]);
    parentId = id;
  }
}

/** The messages from the first down to `id`, included. @returns {Node[]} */
export function pathTo(conversation, id) {
  const path = [];
  for (let node = conversation.nodes[id]; node; node = conversation.nodes[node.parentId]) {
    path.unshift(node);
  }
  return path;
}

/** Shows the sibling `step` places further. @returns {Conversation} */
export function chooseSibling(conversation, id, step) {
  const { parentId } = conversation.nodes[id];
  const siblings = childrenOf(conversation, parentId);
  const place = siblings.findIndex((node) => node.id === id) + step;
  const chosen = siblings[place];
  if (!chosen) return conversation;
  return { ...conversation, choices: { ...conversation.choices, [parentId]: chosen.id } };
}

/** What the API is told: everything said above an answer, without answers that stayed empty. */
export function requestMessages(path, systemPrompt) {
  const said = path.filter((node) => node.text !== "");
  const messages = said.map(({ role, text }) => ({ role, content: text }));
  const system = systemPrompt.trim();
  return system ? [{ role: "system", content: system }, ...messages] : messages;
}

/** Closes answers that a closed page left growing. @returns {Conversation} */
export function settle(conversation) {
  const growing = Object.values(conversation.nodes).filter(
    (node) => node.role === "assistant" && !node.finish,
  );
  return growing.reduce(
    (settled, node) => changeNode(settled, node.id, { finish: "stopped" }),
    conversation,
  );
}

/** The first line of a text, cut at a length fit for a list. */
export function shorten(text) {
  const line = text.trim().split("\n", 1)[0];
  const letters = [...line];
  return letters.length > TITLE_LENGTH ? `${letters.slice(0, TITLE_LENGTH).join("")}…` : line;
}
