// The third view: an answer searched for rather than sampled, and the tree of what was tried.

import { endOf } from "./answer.js";
import { fetchJson } from "./api.js";
import { announce } from "./announce.js";
import { byId, el } from "./dom.js";
import { isAbort, isOurs } from "./failures.js";
import { failureCard } from "./failure-card.js";
import { plain, signed } from "./numbers.js";
import { hasQuestion, routeOf, searchOf, steeredRequest } from "./request.js";
import { pairsOf } from "./state.js";
import { outcomeOf } from "./tree.js";
import { drawTree } from "./tree-view.js";

/** What each method takes of the settings, and what it does. */
const METHODS = {
  chunk_beam: [["beams", "branches", "chunk"], "keeps the best beams of beams × branches at every boundary"],
  blockwise: [["branches", "chunk"], "goes on from the best of the branches at every boundary"],
  best_of_n: [["branches"], "finishes as many answers as there are branches and keeps the best"],
  deal: [["beams", "branches", "chunk"], "keeps beams by value plus log-probability"],
  smc: [["beams", "chunk"], "resamples as many particles as there are beams by their weights"],
  speculative_rejection: [["beams", "chunk"], "starts many and drops the worst half again and again"],
};
const FIELDS = { beams: "beams", branches: "branches", chunk: "chunk" };

/** Set the view up; gives what starts and stops it. */
export function setUpSearch(store) {
  let running = null;
  const put = (name, value) => store.set({ search: { ...store.get().search, [name]: value } });
  const method = byId("method");
  const value = byId("value");
  method.addEventListener("change", () => put("method", method.value));
  value.addEventListener("change", () => put("value", value.value));
  for (const [name, id] of Object.entries(FIELDS)) {
    byId(id).addEventListener("input", (event) => {
      const field = event.target;
      const valid = field.value.trim() !== "" && field.validity.valid;
      field.setAttribute("aria-invalid", String(!valid));
      if (valid) put(name, name === "chunk" ? field.value : Number(field.value));
    });
  }
  store.listen(showMethods, "policy");
  store.listen(showFields, "search", "policy");
  store.listen(
    () => {
      byId("search-stale").hidden = byId("search-result").childElementCount === 0;
    },
    "prompt",
    "asked",
    "knobs",
    "formula",
    "sampling",
    "search",
  );

  function showMethods(state) {
    const { searches, limits, search } = state.policy;
    const own = search ? [el("option", { value: "" }, search.value)] : [];
    value.replaceChildren(
      ...own,
      ...pairsOf(state.policy)
        .filter((pair) => pair !== search?.value)
        .map((pair) => el("option", { value: pair }, pair)),
    );
    method.replaceChildren(...searches.map((name) => el("option", { value: name }, name.replaceAll("_", " "))));
    byId("search-none").hidden = searches.length > 0;
    byId("search-form").hidden = searches.length === 0;
    byId("beams").max = limits.beams;
    byId("branches").max = limits.branches;
  }

  function showFields(state) {
    const [used, words] = METHODS[state.search.method] ?? [Object.keys(FIELDS), ""];
    method.value = state.search.method;
    value.value = state.search.value;
    byId("method-words").textContent = words && `${words[0].toUpperCase()}${words.slice(1)}.`;
    for (const [name, id] of Object.entries(FIELDS)) {
      byId(id).disabled = !used.includes(name);
      if (document.activeElement !== byId(id)) byId(id).value = state.search[name];
    }
  }

  async function start() {
    stop();
    const state = store.get();
    if (!hasQuestion(state) || !state.search.method) return;
    const own = new AbortController();
    running = own;
    const place = byId("search-result");
    place.setAttribute("aria-busy", "true");
    place.replaceChildren(el("p", { class: "working" }, "Searching: the answer comes when it is whole."));
    byId("search-stale").hidden = true;
    try {
      const body = steeredRequest(state, { search: { ...searchOf(state), trace: true } });
      const [choice] = (await fetchJson(routeOf(state), { body, signal: own.signal })).choices;
      place.replaceChildren(...resultOf(choice, state));
      announce(`The search found an answer with score ${signed(choice.trimtab.score)}.`);
    } catch (error) {
      if (!isAbort(error)) place.replaceChildren(failureCard(error, start));
      if (isOurs(error)) throw error;
    } finally {
      if (running === own) settle();
    }
  }

  function settle() {
    running = null;
    byId("search-result").removeAttribute("aria-busy");
  }

  function stop() {
    if (!running) return;
    running.abort();
    byId("search-result").replaceChildren();
    settle();
  }

  return { start, stop };
}

function resultOf(choice, state) {
  const { found, score, kl } = choice.trimtab;
  const text = choice.text ?? choice.message.content;
  const lead = el("span", { class: "asked" }, state.mode === "chat" ? "" : endOf(state.prompt));
  const facts = [
    ["Score", signed(score)],
    ["KL, nats a token", kl === undefined || kl === null ? "–" : plain(kl)],
  ];
  if (found)
    facts.push(
      ["Chunks", String(found.trace.length)],
      ["Tokens tried", String(found.trace.reduce((sum, node) => sum + node.tokens, 0))],
    );
  const answer = el("div", { class: "found" }, el("p", { class: "tokens" }, lead, text), figures(facts));
  if (!found?.trace.length) return [answer];
  const detail = el("div", { class: "chunk-detail" });
  const show = (box) => detail.replaceChildren(...detailOf(box));
  const tree = drawTree(found, show);
  detail.append(el("p", { class: "soft" }, "Point at a chunk, or move to one by keyboard, for all of its text."));
  return [answer, keyOf(), tree, detail];
}

const figures = (facts) =>
  el(
    "dl",
    { class: "figures" },
    ...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
  );

const keyOf = () =>
  el(
    "ul",
    { class: "tree-key" },
    ...[
      ["best", "on the way to the best"],
      ["kept", "went on"],
      ["dropped", "dropped"],
    ].map(([state, words]) => el("li", { "data-state": state }, words)),
  );

function detailOf(box) {
  const { node } = box;
  return [
    el("p", { class: "tokens" }, node.text),
    figures([
      ["Score so far", signed(node.score, 3)],
      ["Tokens", String(node.tokens)],
      ["Boundary", String(node.depth + 1)],
      ["Outcome", outcomeOf(box)],
    ]),
  ];
}
