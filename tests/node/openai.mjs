// OpenAI's own client for JavaScript: node openai.mjs http://127.0.0.1:8000

import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { apiKey, baseURL, bird, gathered } from "./shared.mjs";

const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const model = "sft";
const messages = [{ role: "user", content: "Hello" }];
const asked = { model, messages, max_tokens: 30, temperature: 1, seed: 5 };
const call = { id: "a", type: "function", function: { name: "python", arguments: '{"code": "6*7"}' } };
const used = [
  ...messages,
  { role: "assistant", content: null, tool_calls: [call] },
  { role: "tool", tool_call_id: "a", content: "42" },
  { role: "user", content: "And?" },
];

const names = [];
for await (const { id } of client.models.list()) names.push(id);
assert.deepEqual(names, ["sft", "base"]);

const whole = await client.chat.completions.create(asked);
const said = whole.choices[0].message.content;
assert(said);
assert.equal(whole.choices[0].finish_reason, "length");

const stream = client.chat.completions.stream({ ...asked, stream_options: { include_usage: true } });
assert.equal(await gathered(stream, (chunk) => chunk.choices[0]?.delta.content), said);
const final = await stream.finalChatCompletion();
assert.equal(final.choices[0].message.content, said);
assert.deepEqual(final.usage.completion_tokens, whole.usage.completion_tokens);

const format = { ...asked, max_tokens: 100, response_format: zodResponseFormat(bird, "bird") };
bird.parse((await client.chat.completions.parse(format)).choices[0].message.parsed);
const streamed = await client.chat.completions.stream(format).finalChatCompletion();
bird.parse(streamed.choices[0].message.parsed);

const history = await client.chat.completions.create({ ...asked, messages: used });
assert(history.usage.prompt_tokens > whole.usage.prompt_tokens);

const text = await client.completions.create({ model: "base", prompt: "Once", max_tokens: 8, seed: 5, echo: true });
assert(text.choices[0].text.startsWith("Once"));

const response = { model, input: "Hello", max_output_tokens: 30, temperature: 1, seed: 5 };
const answered = await client.responses.create(response);
assert.equal(answered.output_text, said);
const events = client.responses.stream(response);
assert.equal(await gathered(events, (event) => (event.type === "response.output_text.delta" ? event.delta : "")), said);
assert.equal((await events.finalResponse()).output_text, said);
const form = { ...response, max_output_tokens: 100, text: { format: zodTextFormat(bird, "bird") } };
bird.parse((await client.responses.parse(form)).output_parsed);
const input = [
  ...messages,
  ...answered.output,
  { role: "user", content: "And?" },
  { type: "function_call", call_id: "a", name: "python", arguments: '{"code": "6*7"}' },
  { type: "function_call_output", call_id: "a", output: "42" },
];
assert((await client.responses.create({ ...response, input })).output_text);

await assert.rejects(client.chat.completions.create({ ...asked, temperature: 9 }), (error) => {
  return error instanceof OpenAI.BadRequestError && error.param === "temperature";
});
