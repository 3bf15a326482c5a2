// The Vercel AI SDK over both of its providers: node vercel.mjs http://127.0.0.1:8000

import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, Output, streamObject, streamText } from "ai";
import { apiKey, baseURL, bird, gathered } from "./shared.mjs";

const openai = createOpenAI({ baseURL, apiKey });
const compatible = createOpenAICompatible({ name: "fledge", baseURL, supportsStructuredOutputs: true, includeUsage: true });
const call = { toolCallId: "a", toolName: "python" };
const used = [
  { role: "user", content: "Hello" },
  { role: "assistant", content: [{ type: "tool-call", ...call, input: { code: "6*7" } }] },
  { role: "tool", content: [{ type: "tool-result", ...call, output: { type: "text", value: "42" } }] },
  { role: "assistant", content: "It is 42." },
  { role: "user", content: [{ type: "text", text: "And?" }] },
];
const length = { maxOutputTokens: 30, maxRetries: 0 };
const strictly = { maxOutputTokens: 100, maxRetries: 0 };

for (const model of [compatible("sft"), openai.chat("sft"), openai("sft")]) {
  const kept = { openai: { store: false } }; // or it would name earlier answers by their ids
  const asked = { model, prompt: "Hello", temperature: 0, providerOptions: kept, ...length };
  const whole = await generateText(asked);
  assert(whole.text);
  assert.equal(whole.finishReason, "length");
  assert(whole.usage.outputTokens > 0);
  assert.deepEqual(whole.warnings ?? [], []);

  const stream = streamText({ ...asked, onError: ({ error }) => assert.fail(error) });
  assert.equal(await gathered(stream.textStream), whole.text);
  assert.equal(await stream.finishReason, "length");
  assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);

  const structured = { model, prompt: "Which bird?", providerOptions: kept, ...strictly };
  bird.parse((await generateObject({ ...structured, schema: bird })).object);
  const streamed = streamObject({ ...structured, schema: bird, onError: ({ error }) => assert.fail(error) });
  await gathered(streamed.partialObjectStream); // nothing is asked before somebody reads
  bird.parse(await streamed.object);
  bird.parse((await generateText({ ...structured, output: Output.object({ schema: bird }) })).output);
  assert(["owl", "hen"].includes((await generateObject({ ...structured, output: "enum", enum: ["owl", "hen"] })).object));

  const { prompt, ...talk } = asked;
  const history = await generateText({ ...talk, system: "Be kind.", messages: used });
  assert(history.usage.inputTokens > whole.usage.inputTokens);
  // What was answered goes back in as it came.
  const more = [{ role: "user", content: prompt }, ...whole.response.messages, { role: "user", content: "And?" }];
  assert((await generateText({ ...talk, messages: more })).usage.inputTokens > whole.usage.inputTokens);
}

assert((await generateText({ model: compatible.completionModel("base"), prompt: "Once", ...length })).text);
