// The first view: the base and the policy answer side by side. A slider that moves asks the policy again with the same
// seed; the base is asked again only when its own question changes.

import { announce } from "./announce.js";
import { createAnswer, meanKlOf } from "./answer.js";
import { drawChart } from "./chart.js";
import { debounced } from "./debounce.js";
import { byId, el } from "./dom.js";
import { isAbort } from "./failures.js";
import { inspect, inspectNothing } from "./inspector.js";
import { liftOf } from "./lift.js";
import { plain } from "./numbers.js";
import { baseRequest, hasQuestion, promptOf, routeOf, steeredRequest } from "./request.js";
import { scorePrefixes } from "./score.js";

const ALTERNATIVES = 6;
const REST = 140; // milliseconds without a move, after which sliders ask again

/** Set the view up; gives what starts, stops and empties it. */
export function setUpSteer(store) {
  const scores = { base: [], steered: [] };
  const scoring = { base: null, steered: null };
  let shown = null;
  let asked = false;
  let picked = false;
  let missed = false;

  const base = createAnswer({
    label: "Tokens of the base's answer",
    coloured: false,
    show: showBase,
    changed: arrived,
    ended: () => whole("base"),
  });
  const steered = createAnswer({
    label: "Tokens of the steered answer",
    coloured: true,
    show: showSteered,
    changed: arrived,
    ended: () => whole("steered"),
  });
  byId("base-answer").append(base.root);
  byId("steered-answer").append(steered.root);

  function showBase(token, place) {
    picked = true;
    inspect(token, place, "base's", []);
    shown = null;
    draw();
  }

  function showSteered(token, place) {
    picked = true;
    inspect(token, place, "steered", store.get().policy.factors);
    shown = place;
    draw();
  }

  /** Until the reader picks a token, the glass is over the one that steering moved most. */
  function showMostMoved() {
    if (picked) return;
    const lifts = steered.line.tokens.map((token) => Math.abs(liftOf(token)));
    const place = lifts.indexOf(Math.max(...lifts));
    if (place >= 0) steered.line.pick(place);
    picked = false;
  }

  function draw() {
    const { policy } = store.get();
    drawChart({
      tokens: steered.line.tokens,
      shown,
      reward: policy?.reward ?? null,
      steeredScores: scores.steered,
      baseScores: scores.base,
    });
  }

  function arrived(answer) {
    const fork = forkOf(base.line.tokens, steered.line.tokens);
    steered.line.markFork(fork ?? -1);
    byId("fork").textContent = forkWords(fork, base, steered);
    byId("base-foot").replaceChildren(...footOf(base, null));
    byId("steered-foot").replaceChildren(...footOf(steered, meanKlOf(steered)));
    draw();
  }

  function whole(which) {
    const answer = which === "base" ? base : steered;
    arrived(answer);
    if (answer.state !== "done") return;
    if (which === "steered") showMostMoved();
    if (which === "steered")
      announce(`Steered answer: ${answer.text.trim()}. ${plain(meanKlOf(answer) ?? 0)} nats a token.`);
    rate(which, answer);
  }

  async function rate(which, answer) {
    const state = store.get();
    if (!state.policy.reward || !answer.line.tokens.length) return;
    scoring[which] = new AbortController();
    try {
      scores[which] = await scorePrefixes(promptOf(state), answer.line.tokens, scoring[which].signal);
      draw();
    } catch (error) {
      if (!isAbort(error)) byId("chart").append(el("p", { class: "note" }, `No scores: ${error.message}`));
    }
  }

  function ask(which, answer, body) {
    scoring[which]?.abort();
    scores[which] = [];
    picked = false;
    answer.start(routeOf(store.get()), body);
  }

  const alternatives = () => Math.min(ALTERNATIVES, store.get().policy.limits.top_logprobs);
  const askSteered = () => ask("steered", steered, steeredRequest(store.get(), { details: alternatives() }));
  const again = debounced(() => hasQuestion(store.get()) && askSteered(), REST);
  const allAgain = debounced(() => store.get().view === "steer" && hasQuestion(store.get()) && start(), REST);

  function start() {
    asked = true;
    again.cancel();
    allAgain.cancel();
    byId("steer-empty").hidden = true;
    byId("steer-full").hidden = false;
    ask("base", base, baseRequest(store.get(), alternatives()));
    askSteered();
  }

  // What changes while another view is open is asked when this one is looked at again.
  store.listen(
    (state, changed) => {
      if (!state.policy) return;
      const all = changed.has("sampling") && asked;
      const some = changed.has("knobs") || changed.has("formula");
      if (state.view !== "steer") missed ||= asked && (all || some);
      else if (missed || all || (some && !asked)) allAgain();
      else if (some) again();
      if (state.view === "steer") missed = false;
    },
    "view",
    "knobs",
    "formula",
    "sampling",
  );
  inspectNothing();
  draw();
  return {
    start,
    answers: [base, steered],
    stop() {
      again.cancel();
      allAgain.cancel();
      for (const which of ["base", "steered"]) scoring[which]?.abort();
      base.stop();
      steered.stop();
    },
    clear() {
      asked = false;
      for (const which of ["base", "steered"]) scores[which] = [];
      base.clear();
      steered.clear();
      inspectNothing();
      byId("steer-empty").hidden = false;
      byId("steer-full").hidden = true;
    },
  };
}

/** Where two answers part, as a place among the tokens of the second; null where they have not yet. */
function forkOf(base, steered) {
  const length = Math.min(base.length, steered.length);
  for (let place = 0; place < length; place += 1) if (base[place].id !== steered[place].id) return place;
  return null;
}

function forkWords(fork, base, steered) {
  if (fork === 0) return "The answers part at the first token.";
  if (fork !== null) return `The same for ${fork} ${fork === 1 ? "token" : "tokens"}, then the answers part.`;
  const done = base.state === "done" && steered.state === "done";
  return done && steered.line.tokens.length ? "Both answers are the same." : "";
}

const ENDS = { stop: "ended", length: "cut at max tokens" };

function footOf(answer, kl) {
  const count = answer.line.tokens.length;
  const parts = [];
  if (count) parts.push(`${count} ${count === 1 ? "token" : "tokens"}`);
  if (kl !== null) parts.push(`${plain(kl)} nats a token from the base`);
  if (answer.state === "stopped") parts.push("stopped");
  else if (answer.finish) parts.push(ENDS[answer.finish] ?? answer.finish);
  return parts.map((part) => el("span", {}, part));
}
