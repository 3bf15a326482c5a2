// The server's two calls: which stages there are, and an answer as a stream of chunks.

export class ApiError extends Error {
  constructor(message, { status = 0, retryAfter = 0 } = {}) {
    super(message);
    Object.assign(this, { status, retryAfter });
  }
}

let askForKey = async () => null;
/** `ask(wasWrong)` resolves to an API key, or to null where the user gave up. */
export const onKeyNeeded = (ask) => (askForKey = ask);

async function request(path, options = {}) {
  const key = sessionStorage.getItem("fledge.key");
  const headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError("The server does not answer. Is it still running?");
  }
  if (response.ok) return response;
  if (response.status === 401) {
    const given = await askForKey(key !== null);
    if (given) {
      sessionStorage.setItem("fledge.key", given);
      return request(path, options);
    }
  }
  const body = await response.json().catch(() => null);
  const retryAfter = Number(response.headers.get("Retry-After")) || 0;
  throw new ApiError(body?.error?.message ?? `The server answered ${response.status}.`, { status: response.status, retryAfter });
}

/** The stages, as {id, name, context_tokens, tools, suggestions, sampling, default}. */
export async function models() {
  const { data } = await (await request("v1/models")).json();
  return data.map((model) => ({ id: model.id, suggestions: [], tools: [], sampling: [], ...model.fledge }));
}

/** The payloads of server-sent events, however the bytes were cut: half characters, half lines, half line ends. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  let data = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (held + value).split("\n");
    held = lines.pop();
    for (const line of lines.map((line) => line.replace(/\r$/, ""))) {
      if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      else if (line === "" && data.length) {
        yield data.join("\n");
        data = [];
      }
    }
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
