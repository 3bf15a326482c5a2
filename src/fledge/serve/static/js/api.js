// The server's two calls: which stages there are, and an answer as a stream of chunks. Asks for the API key where one is needed.

import { askFor } from "./dom.js";
import { keep, recall } from "./keep.js";

const key = () => recall("sessionStorage", "key"); // until the tab is closed

/** Why there is no answer. */
class ApiError extends Error {}

async function request(path, options = {}) {
  const headers = { "Content-Type": "application/json", ...(key() && { Authorization: `Bearer ${key()}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError("The server does not answer. Is it still running?");
  }
  if (response.ok) return response;
  if (response.status === 401 && (await askForKey())) return request(path, options);
  const body = await response.json().catch(() => null);
  throw new ApiError(body?.error?.message ?? `The server answered ${response.status}.`);
}

/** The stages in the order of training, as {id, name, context_tokens, tools, suggestions: what to ask, turn by turn, sampling, default}. */
export async function models() {
  const { data } = await (await request("v1/models")).json();
  return data.reverse().map((model) => ({ id: model.id, suggestions: [], tools: [], sampling: [], ...model.fledge }));
}

/** The payloads of server-sent events, one line each, however the bytes were cut: half characters, half lines, half line ends. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (held + value).split("\n");
    held = lines.pop();
    for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
  }
}

/** Chunks of one answer. Throws ApiError where the server refuses or breaks off, AbortError where `signal` says stop. */
export async function* answer(body, signal) {
  const asked = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await request("v1/chat/completions", { method: "POST", body: JSON.stringify(asked), signal });
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message ?? "The server gave up on this answer.");
      yield chunk;
    }
  } catch (error) {
    if (signal.aborted || error instanceof ApiError) throw error;
  }
  throw new ApiError("The connection broke off before the answer was complete.");
}

let asking = null; // both of two stages may be refused at once

/** Asks the user for the key; resolves to the one that was given, or to null. */
async function askForKey() {
  const about = key() ? "The server did not accept that key." : "Kept until this tab is closed.";
  asking ??= askFor("API key of this server", { type: "password", about }).finally(() => (asking = null));
  const given = await asking;
  if (given) keep("sessionStorage", "key", given);
  return given;
}
