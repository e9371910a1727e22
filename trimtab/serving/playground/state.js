// What the page's state holds at first, and what of it follows from the policy that is chosen.

/** The state before anything is known of the server. */
export const INITIAL = {
  policies: [],
  policy: null, // the chosen one, as /v1/policies describes it
  view: "steer", // or compare, search, export
  mode: "prompt", // or chat
  prompt: "",
  system: "",
  turns: [], // of the conversation so far: {role, content}
  asked: "", // the message that both answer
  knobs: {},
  formula: null, // in the place of the policy's own
  sampling: { temperature: 1, top_p: 1, max_tokens: 64, seed: 1 },
  search: { method: "", value: "", beams: 4, branches: 4, chunk: "5" },
  compare: { knob: "", values: [] },
  withSearch: false, // whether exports search
};

/** What searches can score by: how much likelier one model finds a text than another, the reference last. */
export function pairsOf(policy) {
  const names = policy.models.map((model) => model.name);
  const last = policy.models.find((model) => [model.name, model.source].includes(policy.reference))?.name;
  const pairs = names.flatMap((tuned) =>
    names.filter((each) => each !== tuned).map((untuned) => `${tuned} / ${untuned}`),
  );
  return pairs.sort((a, b) => Number(b.endsWith(` / ${last}`)) - Number(a.endsWith(` / ${last}`)));
}

/** What changes with another policy: its knobs at their defaults, its settings, its searches. */
export function adopt(policy, state) {
  const { temperature, top_p, max_new_tokens } = policy.decoding;
  const set = policy.search;
  const searches = policy.searches;
  return {
    policy,
    mode: policy.chat ? state.mode : "prompt",
    knobs: Object.fromEntries(policy.knobs.map((knob) => [knob.name, knob.default])),
    formula: null,
    sampling: { ...state.sampling, temperature, top_p, max_tokens: max_new_tokens },
    search: {
      method: set && searches.includes(set.method) ? set.method : (searches[0] ?? ""),
      value: set ? "" : (pairsOf(policy)[0] ?? ""), // "" is the policy's own
      beams: set?.beams ?? 4,
      branches: set?.branches ?? 4,
      chunk: String(set?.chunk ?? 5),
    },
    compare: { knob: policy.knobs[0]?.name ?? "", values: [] },
  };
}
