// The page's state in the address, after the #, where no server sees it: what a link needs to show the same again.

import { pairsOf } from "./state.js";

/** Write the state as a fragment; the key is no part of the state. */
export function toFragment(state) {
  const parts = new URLSearchParams();
  parts.set("policy", state.policy.id);
  if (state.view !== "steer") parts.set("view", state.view);
  if (state.mode === "chat") {
    parts.set("mode", "chat");
    if (state.system) parts.set("system", state.system);
    if (state.turns.length) parts.set("turns", JSON.stringify(state.turns.map(({ role, content }) => [role, content])));
    if (state.asked) parts.set("asked", state.asked);
  } else if (state.prompt) {
    parts.set("prompt", state.prompt);
  }
  for (const [name, value] of Object.entries(state.knobs)) parts.set(`knob.${name}`, value);
  if (state.formula !== null) parts.set("formula", state.formula);
  for (const [name, value] of Object.entries(state.sampling)) parts.set(name, value);
  if (state.search.method) for (const [name, value] of Object.entries(state.search)) parts.set(`search.${name}`, value);
  if (state.compare.knob) parts.set("compare", [state.compare.knob, ...state.compare.values].join(","));
  return parts.toString().replaceAll("%2C", ",");
}

/** The id of the policy that a fragment names, or null. */
export const policyIn = (fragment) => new URLSearchParams(fragment).get("policy");

/** What a fragment changes in a state; what it does not say, or what does not fit the policy, stays. */
export function fromFragment(fragment, state, views) {
  const parts = new URLSearchParams(fragment);
  const text = (name) => parts.get(name) ?? "";
  const number = (name, other) => {
    const value = Number(parts.get(name) ?? NaN);
    return parts.get(name) !== "" && Number.isFinite(value) ? value : other;
  };
  const numbers = (values, prefix) =>
    Object.fromEntries(Object.entries(values).map(([name, value]) => [name, number(prefix + name, value)]));
  const { searches } = state.policy;
  return {
    view: views.includes(text("view")) ? text("view") : "steer",
    mode: text("mode") === "chat" && state.policy.chat ? "chat" : "prompt",
    prompt: text("prompt"),
    system: text("system"),
    turns: turnsIn(text("turns")),
    asked: text("asked"),
    knobs: numbers(state.knobs, "knob."),
    formula: parts.get("formula"),
    sampling: numbers(state.sampling, ""),
    search: {
      method: searches.includes(text("search.method")) ? text("search.method") : state.search.method,
      value: valueIn(text("search.value"), state),
      beams: number("search.beams", state.search.beams),
      branches: number("search.branches", state.search.branches),
      chunk: text("search.chunk") || state.search.chunk,
    },
    compare: compareIn(text("compare"), state),
  };
}

const valueIn = (text, state) => (pairsOf(state.policy).includes(text) ? text : state.search.value);

function turnsIn(text) {
  if (!text) return [];
  let given;
  try {
    given = JSON.parse(text);
  } catch {
    return []; // a link that was cut short still shows the rest of its state
  }
  const whole = (turn) =>
    Array.isArray(turn) && turn.length === 2 && ["user", "assistant"].includes(turn[0]) && typeof turn[1] === "string";
  return Array.isArray(given) && given.every(whole) ? given.map(([role, content]) => ({ role, content })) : [];
}

function compareIn(text, state) {
  const [knob, ...values] = text.split(",");
  const numbers = values.map(Number);
  const fits =
    state.policy.knobs.some((each) => each.name === knob) && numbers.length === 5 && numbers.every(Number.isFinite);
  return fits ? { knob, values: numbers } : state.compare;
}
