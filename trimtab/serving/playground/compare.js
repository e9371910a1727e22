// The second view: one question at five strengths of a knob, all from the same seed, with what each costs.

import { announce } from "./announce.js";
import { createAnswer, meanKlOf } from "./answer.js";
import { byId, el } from "./dom.js";
import { isAbort } from "./failures.js";
import { plain, tidy } from "./numbers.js";
import { spread } from "./range.js";
import { hasQuestion, promptOf, routeOf, steeredRequest } from "./request.js";
import { scoreTexts } from "./score.js";
import { strengthChart } from "./strength-chart.js";

const STRENGTHS = 5;

/** Set the view up; gives what starts and stops it. */
export function setUpCompare(store) {
  let cells = [];
  let scoring = null;
  const overview = el("article", { class: "cell overview", "aria-label": "Cost by strength" });
  const choice = byId("compare-knob");
  choice.addEventListener("change", () =>
    store.set({ compare: { knob: choice.value, values: valuesOf(store.get(), choice.value) } }),
  );

  store.listen((state) => {
    choice.replaceChildren(...state.policy.knobs.map((knob) => el("option", { value: knob.name }, knob.name)));
    byId("compare-none").hidden = state.policy.knobs.length > 0;
    byId("compare-form").hidden = state.policy.knobs.length === 0;
    if (!state.compare.values.length && state.policy.knobs.length) {
      store.set({ compare: { ...state.compare, values: valuesOf(state, state.compare.knob) } });
    }
  }, "policy");
  store.listen(build, "compare");
  store.listen(() => markStale(), "prompt", "asked", "knobs", "formula", "sampling");

  function markStale() {
    const ran = cells.some((cell) => cell.answer.state !== "idle");
    byId("compare-stale").hidden = !ran;
  }

  function build(state) {
    stop();
    choice.value = state.compare.knob;
    cells = state.compare.values.map((value, place) => cellOf(place, value));
    byId("compare-grid").replaceChildren(...cells.map((cell) => cell.root), overview);
    drawOverview();
    byId("compare-stale").hidden = true;
  }

  function drawOverview() {
    const { compare, policy } = store.get();
    const points = cells.map((cell) => ({ value: cell.value, kl: cell.meanKl(), score: cell.score }));
    const most = Math.max(1e-6, ...points.map((point) => point.kl ?? 0));
    for (const cell of cells) cell.showShare((cell.meanKl() ?? 0) / most);
    overview.replaceChildren(strengthChart(points, compare.knob, policy.reward));
  }

  function cellOf(place, value) {
    const { compare } = store.get();
    const field = el("input", {
      type: "number",
      step: "any",
      value: tidy(value),
      "aria-label": `${compare.knob}, number ${place + 1} of ${STRENGTHS}`,
    });
    field.addEventListener("change", () => {
      if (field.value === "" || !field.validity.valid) return;
      const values = store.get().compare.values.with(place, Number(field.value));
      store.set({ compare: { ...store.get().compare, values } });
    });
    const foot = el("dl", { class: "figures" });
    const answer = createAnswer({
      label: `Tokens at ${compare.knob} ${tidy(value)}`,
      coloured: true,
      changed: () => showKl(),
      ended: () => settled(),
    });
    const bar = el("span", { class: "bar steered", "aria-hidden": "true" }, el("i"));
    const kl = el("dd", {}, "–");
    foot.append(el("div", {}, el("dt", {}, "KL, nats a token"), kl, bar));
    function settled() {
      showKl();
      drawOverview();
    }
    function showKl() {
      const mean = meanKlOf(answer);
      kl.textContent = mean === null ? "–" : plain(mean);
    }
    const root = el(
      "article",
      { class: "cell" },
      el("header", {}, el("span", { class: "soft" }, compare.knob), field),
      answer.root,
      foot,
    );
    return {
      root,
      answer,
      value,
      score: null,
      meanKl: () => meanKlOf(answer),
      showShare(share) {
        bar.firstChild.style.width = `${100 * share}%`;
      },
      showScore(reward, score) {
        this.score = score;
        foot.append(el("div", {}, el("dt", {}, reward), el("dd", {}, plain(score))));
      },
    };
  }

  async function start() {
    build(store.get());
    const state = store.get();
    if (!hasQuestion(state) || !cells.length) return;
    const own = new AbortController();
    scoring = own;
    byId("compare-grid").setAttribute("aria-busy", "true");
    const ran = cells;
    // One after another: rows that share a batch are rounded differently, and each answer is to be the one that the
    // same settings give alone.
    for (const cell of ran) {
      const knobs = { ...state.knobs, [state.compare.knob]: cell.value };
      await cell.answer.start(routeOf(state), steeredRequest(state, { details: 0 }, knobs));
      if (own.signal.aborted) return;
    }
    byId("compare-grid").removeAttribute("aria-busy");
    announce(`${ran.length} answers are there to compare.`);
    await rate(ran, state, own.signal);
  }

  async function rate(ran, state, signal) {
    const whole = ran.filter((cell) => cell.answer.state === "done");
    if (!state.policy.reward || !whole.length) return;
    try {
      const scores = await scoreTexts(
        promptOf(state),
        whole.map((cell) => cell.answer.text),
        signal,
      );
      whole.forEach((cell, place) => cell.showScore(state.policy.reward, scores[place]));
      drawOverview();
    } catch (error) {
      if (!isAbort(error)) byId("compare-grid").append(el("p", { class: "note" }, `No scores: ${error.message}`));
    }
  }

  function stop() {
    scoring?.abort();
    scoring = null;
    byId("compare-grid").removeAttribute("aria-busy");
    for (const cell of cells) cell.answer.stop();
  }

  return { start, stop };
}

function valuesOf(state, name) {
  const knob = state.policy.knobs.find((each) => each.name === name);
  return knob ? spread(knob, STRENGTHS) : [];
}
