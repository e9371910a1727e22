// The page's settings as texts to take away: a policy file, a curl command, a Python program. The key is in none.

import { routeOf, searchOf, steeredRequest } from "./request.js";
import { toYaml } from "./yaml.js";

/** The settings as a policy file, the knobs' defaults where the sliders are. */
export function policyFile(state) {
  const { policy, sampling } = state;
  const named = (list) => Object.fromEntries(list.map((each) => [each.name, each.source]));
  const { temperature, top_p, max_tokens } = sampling;
  const knobs = policy.knobs.map((knob) => [knob.name, { default: state.knobs[knob.name], min: knob.min, max: knob.max }]);
  return toYaml({
    models: named(policy.models),
    vectors: policy.vectors.length ? named(policy.vectors) : null,
    knobs: knobs.length ? Object.fromEntries(knobs) : null,
    policy: state.formula ?? policy.expression,
    decoding: { ...policy.decoding, temperature, top_p, max_new_tokens: max_tokens },
    search: state.view === "search" || policy.search ? searchBlock(state) : null,
  });
}

/** The same question as a curl command; `keyed` where the server wants a key. */
export function curlCommand(state, root, keyed) {
  const key = keyed ? [`  -H "Authorization: Bearer $TRIMTAB_KEY" \\`] : [];
  const body = shellQuoted(JSON.stringify(steeredRequest(state, { details: undefined }), null, 2));
  return [`curl ${shellQuoted(root + routeOf(state))} \\`, ...key, `  -H 'Content-Type: application/json' \\`, `  -d ${body}`, ""].join("\n");
}

/** The same question in Python. */
export function pythonProgram(state, root) {
  const { trimtab, ...known } = steeredRequest(state);
  const chat = state.mode === "chat";
  const lines = Object.entries(known).map(([name, value]) => `    ${name}=${literal(value)},`);
  if (trimtab) lines.push(`    extra_body={"trimtab": ${literal(trimtab)}},`);
  return [
    "import os",
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${literal(`${root}v1`)}, api_key=os.environ.get("TRIMTAB_KEY", "none"))`,
    `answer = client.${chat ? "chat.completions" : "completions"}.create(`,
    ...lines,
    ")",
    `print(answer.choices[0].${chat ? "message.content" : "text"})`,
    "",
  ].join("\n");
}

/** The state's search; its value and what the page does not show are the policy's. */
function searchBlock(state) {
  const { policy } = state;
  if (!policy.search || !state.search.method) return policy.search;
  return { ...policy.search, ...searchOf(state) };
}

const shellQuoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** A value as Python writes it. */
function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${literal(each)}`).join(", ")}}`;
}
