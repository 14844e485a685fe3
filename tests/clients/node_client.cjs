// The official SDK for Node: `node node_client.cjs CHECK URL MODEL` ends with 0 if the check passes.
const assert = require("node:assert");
const OpenAI = require("openai");

const [check, baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "sk-of-the-client", maxRetries: 0 });
const content = "What is the capital of Australia? Answer in one short sentence.";
const messages = [{ role: "user", content }];
const parameters = { type: "object", properties: { city: { type: "string" } } };

const checks = {
  async chat() {
    const answer = await client.chat.completions.create({ model, messages, max_tokens: 100 });
    assert.match(answer.choices[0].message.content, /Canberra/);
  },
  async stream() {
    const stream = await client.chat.completions.create({ model, messages, max_tokens: 100, stream: true });
    let text = "";
    for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
    assert.match(text, /Canberra/);
  },
  async streamHelper() {
    const runner = client.chat.completions.stream({ model, messages, max_tokens: 100 });
    const final = await runner.finalChatCompletion();
    assert.match(final.choices[0].message.content, /Canberra/);
  },
  async tools() {
    const tools = [{ type: "function", function: { name: "weather", parameters } }];
    const asked = [{ role: "user", content: "What is the weather in Canberra?" }];
    const answer = await client.chat.completions.create({ model, messages: asked, tools, tool_choice: "required" });
    assert.ok(JSON.parse(answer.choices[0].message.tool_calls[0].function.arguments).city);
  },
  async responses() {
    const answer = await client.responses.create({ model, input: content, max_output_tokens: 100 });
    assert.match(answer.output_text, /Canberra/);
  },
  async responsesStream() {
    const stream = client.responses.stream({ model, input: content, max_output_tokens: 100 });
    const final = await stream.finalResponse();
    assert.match(final.output_text, /Canberra/);
  },
  async embeddings() {
    const [plain] = model.split("+");
    const made = await client.embeddings.create({ model: plain, input: "x", encoding_format: "float" });
    assert.ok(made.data[0].embedding.length);
  },
};

checks[check]().catch((error) => {
  console.error(error);
  process.exit(1);
});
