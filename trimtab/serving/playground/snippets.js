// The page's settings as texts to take away: a policy file, a curl command, a Python program. The key is in none.

import { routeOf, searchOf, steeredRequest } from "./request.js";
import { toYaml } from "./yaml.js";

/** The settings as a policy file, the knobs' defaults where the sliders are. */
export function policyFile(state) {
  const { policy, sampling } = state;
  const named = (list) => Object.fromEntries(list.map((each) => [each.name, each.source]));
  const { temperature, top_p, max_tokens } = sampling;
  const knobs = policy.knobs.map((knob) => [
    knob.name,
    { default: state.knobs[knob.name], min: knob.min, max: knob.max },
  ]);
  const views = policy.models.filter((each) => each.view);
  const untold = views.map((each) => `# ${each.name} has a ${each.view} of the server's own, which it does not tell: add it.\n`);
  return untold.join("") + toYaml({
    models: named(policy.models),
    vectors: policy.vectors.length ? named(policy.vectors) : null,
    knobs: knobs.length ? Object.fromEntries(knobs) : null,
    policy: state.formula ?? policy.expression,
    decoding: { ...said(policy.decoding), temperature, top_p, max_new_tokens: max_tokens },
    search: searchBlock(state),
  });
}

/** The same question as a curl command; `keyed` where the server wants a key. */
export function curlCommand(state, root, keyed) {
  const key = keyed ? [`  -H "Authorization: Bearer $TRIMTAB_KEY" \\`] : [];
  const body = shellQuoted(JSON.stringify(steeredRequest(state, searchPart(state)), null, 2));
  return [
    `curl ${shellQuoted(root + routeOf(state))} \\`,
    ...key,
    `  -H 'Content-Type: application/json' \\`,
    `  -d ${body}`,
    "",
  ].join("\n");
}

/** The same question in Python. */
export function pythonProgram(state, root) {
  const { trimtab, ...known } = steeredRequest(state, searchPart(state));
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

/** The state's search, or the policy's own; what the page does not show is the policy's. */
function searchBlock(state) {
  const { policy } = state;
  if (!state.withSearch) return policy.search;
  const { method, value, beams, branches, chunk } = searchOf(state);
  return { ...policy.search, method, value: value ?? policy.search.value, beams, branches, chunk };
}

/** What requests say of the search, if they are to search. */
const searchPart = (state) => (state.withSearch ? { search: searchOf(state) } : {});

/** Decoding settings without those that change nothing. */
function said(decoding) {
  const idle = { top_k: 0, min_p: 0, repetition_penalty: 1, min_new_tokens: 0 };
  return Object.fromEntries(
    Object.entries(decoding).filter(([name, value]) => value !== idle[name] && (name !== "stop" || value.length)),
  );
}

const shellQuoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** A value as Python writes it. */
function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value)
    .map(([name, each]) => `${JSON.stringify(name)}: ${literal(each)}`)
    .join(", ")}}`;
}
