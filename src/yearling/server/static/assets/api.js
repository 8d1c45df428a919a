/** The server's OpenAI-compatible API, as far as the page uses it. */

import { readEvents } from "./sse.js";

/** @typedef {"offline"|"unauthorized"|"context"|"busy"|"request"|"server"} ErrorKind */

/** A request that failed; `kind` chooses what the page offers to do about it. */
export class ApiError extends Error {
  /** @param {ErrorKind} kind  @param {string} message What the server said, or "". */
  constructor(kind, message = "") {
    super(message);
    this.kind = kind;
  }
}

/**
 * Names of the models that the server serves.
 * @param {string} apiKey "" sends none.
 * @returns {Promise<string[]>}
 */
export async function listModels(apiKey) {
  const response = await send("/v1/models", { headers: headers(apiKey) });
  const { data } = await response.json();
  return data.map((model) => model.id);
}

/**
 * Streams one answer.
 *
 * @param {object} body Of `/v1/chat/completions`, without the streaming fields.
 * @param {{apiKey: string, signal: AbortSignal}} options
 * @returns {AsyncGenerator<{text?: string, finish?: string, tokens?: number}>}
 * @throws {ApiError} The request or the stream failed; aborting throws an AbortError instead.
 */
export async function* streamChat(body, { apiKey, signal }) {
  const response = await send("/v1/chat/completions", {
    method: "POST",
    headers: { ...headers(apiKey), "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  let isFinished = false;
  try {
    for await (const data of readEvents(response.body)) {
      if (data === "[DONE]") continue; // the body ends by itself
      const chunk = parseChunk(data);
      const choice = chunk.choices?.[0];
      if (choice?.delta?.content) yield { text: choice.delta.content };
      if (choice?.finish_reason) {
        isFinished = true;
        yield { finish: choice.finish_reason };
      }
      if (chunk.usage) yield { tokens: chunk.usage.completion_tokens };
    }
  } catch (error) {
    throw asApiError(error);
  }
  if (!isFinished) throw new ApiError("offline");
}

function headers(apiKey) {
  return apiKey.trim() ? { Authorization: `Bearer ${apiKey.trim()}` } : {};
}

async function send(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    throw asApiError(error);
  }
  if (!response.ok) throw await responseError(response);
  return response;
}

function asApiError(error) {
  if (error instanceof ApiError || error.name === "AbortError") return error;
  return new ApiError("offline");
}

async function responseError(response) {
  const text = await response.text().catch(() => "");
  let error = {};
  try {
    error = JSON.parse(text).error ?? {};
  } catch {
    // Not our server's words (a proxy's page, say): the status alone must do.
  }
  const message = error.message ?? `HTTP ${response.status}`;
  return new ApiError(errorKind(response.status, error.code), message);
}

function errorKind(status, code) {
  if (code === "context_length_exceeded") return "context";
  if (status === 401) return "unauthorized";
  if (status === 429 || status === 503) return "busy";
  return status >= 500 ? "server" : "request";
}

function parseChunk(data) {
  let chunk;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new ApiError("server", data.slice(0, 200));
  }
  if (chunk.error) {
    const { code, message = "" } = chunk.error;
    throw new ApiError(code === "context_length_exceeded" ? "context" : "server", message);
  }
  return chunk;
}
