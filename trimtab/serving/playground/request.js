// What the page asks of the server, as plain values: the same ones are sent, and shown in the exports.

/** The route that answers in this mode. */
export const routeOf = (state) => (state.mode === "chat" ? "v1/chat/completions" : "v1/completions");

/** The question itself: a prompt, or a conversation. */
export function questionOf(state) {
  if (state.mode !== "chat") return { prompt: state.prompt };
  const system = state.system.trim() ? [{ role: "system", content: state.system }] : [];
  return { messages: [...system, ...state.turns, { role: "user", content: state.asked }] };
}

/** Whether there is anything to answer. */
export const hasQuestion = (state) => Boolean(state.mode === "chat" ? state.asked.trim() : state.prompt);

/** The text that rewards are told an answer belongs to. */
export const promptOf = (state) => (state.mode === "chat" ? state.asked : state.prompt);

/** Ask the untouched base. */
export function baseRequest(state, details) {
  return { model: "reference", ...questionOf(state), ...samplingOf(state), ...extension({ details }) };
}

/** Ask the policy, at the state's knobs or others; `more` is added to the extension: details, a search. */
export function steeredRequest(state, more = {}, knobs = state.knobs) {
  const formula = state.formula === null ? {} : { policy: state.formula };
  const set = Object.keys(knobs).length ? { knobs } : {};
  return {
    model: state.policy.id,
    ...questionOf(state),
    ...samplingOf(state),
    ...extension({ ...set, ...formula, ...more }),
  };
}

/** The search of the state, with numbers where numbers are meant. */
export function searchOf(state) {
  const { method, value, beams, branches, chunk } = state.search;
  const length = String(chunk).trim();
  return { method, ...(value && { value }), beams, branches, chunk: /^\d+$/.test(length) ? Number(length) : length };
}

function samplingOf(state) {
  const { temperature, top_p, max_tokens, seed } = state.sampling;
  return { max_tokens, temperature, top_p, seed };
}

function extension(values) {
  const given = Object.entries(values).filter(([, value]) => value !== undefined && value !== null);
  return given.length ? { trimtab: Object.fromEntries(given) } : {};
}
