// What a program with OpenAI's npm client does; prints what it got as one line of JSON.
import OpenAI from "openai";

const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "any", maxRetries: 0 });
const said = (content) => [{ role: "user", content }];
const fixed = { model, temperature: 0, max_tokens: 60 };

const chat = { ...fixed, messages: said("Name three colours.") };
const whole = await client.chat.completions.create(chat);
let streamed = "";
for await (const chunk of await client.chat.completions.create({ ...chat, stream: true })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
}

const number = { type: "integer" };
const parameters = {
  type: "object",
  properties: { a: number, b: number },
  required: ["a", "b"],
  additionalProperties: false,
};
const tool = { type: "function", function: { name: "add", description: "Add.", parameters } };
const choice = { type: "function", function: { name: "add" } };
const called = await client.chat.completions.create({
  ...fixed,
  messages: said("Add 17 and 25."),
  tools: [tool],
  tool_choice: choice,
});
const runner = client.chat.completions.stream({
  ...fixed,
  messages: said("Add 17 and 25."),
  tools: [tool],
  tool_choice: choice,
});
const final = await runner.finalChatCompletion();

const object = await client.chat.completions.create({
  ...fixed,
  messages: said("a is 3 and b is 4."),
  response_format: { type: "json_schema", json_schema: { name: "pair", schema: parameters } },
});

let refused = "";
try {
  await client.chat.completions.create({ ...chat, modalities: ["audio"] });
} catch (error) {
  refused = `${error.constructor.name} ${error.param}`;
}

const call = (answer) => answer.choices[0].message.tool_calls[0].function;
console.log(
  JSON.stringify({
    models: (await client.models.list()).data.map((entry) => entry.id),
    whole: whole.choices[0].message.content,
    streamed,
    called: call(called),
    final: call(final),
    object: object.choices[0].message.content,
    refused,
  }),
);
