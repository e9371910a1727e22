// A small chart: what the steered answer has cost so far, in nats, over its tokens; and what its prefixes and those of
// the base are worth, where a reward is loaded.

import { byId, el, svg } from "./dom.js";
import { plain } from "./numbers.js";

const HEIGHT = 170;
const LEFT = 40;
const RIGHT = 40;
const TOP = 12;
const BOTTOM = 26;

/** Draw tokens of the steered answer and [{tokens, score}] of both; `reward` names the score or is null. */
export function drawChart({ tokens, shown, reward, steeredScores, baseScores }) {
  const place = byId("chart");
  const width = Math.max(250, Math.min(640, place.clientWidth || 560));
  if (!tokens.length) {
    place.replaceChildren(el("p", { class: "soft" }, "Cumulative KL to the base appears here as tokens arrive."));
    return;
  }
  const sums = [];
  tokens.reduce((sum, token, index) => (sums[index] = sum + (token.kl ?? 0)), 0);
  const most = niceTop(Math.max(sums.at(-1), 0.1));
  const length = Math.max(tokens.length, ...[...steeredScores, ...baseScores].map((each) => each.tokens), 2);
  const x = (count) => LEFT + ((width - LEFT - RIGHT) * count) / length;
  const y = (share) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - share);
  const points = [[x(0), y(0)], ...sums.map((sum, index) => [x(index + 1), y(sum / most)])];
  const scores = [...steeredScores, ...baseScores].map((each) => each.score);
  const [low, high] = scores.length ? scoreRange(scores) : [0, 1];
  const scored = (list) => list.map((each) => [x(each.tokens), y((each.score - low) / (high - low))]);
  const said = described(sums, reward, steeredScores, baseScores);
  const drawing = svg(
    "svg",
    { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": said },
    ...frame(x, y, most, length),
    svg("path", { class: "area", d: `${path(points)}L${points.at(-1)[0]} ${y(0)}L${x(0)} ${y(0)}Z` }),
    svg("path", { class: "kl", d: path(points) }),
    ...(scores.length
      ? [
          ...scoreAxis(width - RIGHT, y, low, high),
          ...series(scored(baseScores), "base"),
          ...series(scored(steeredScores), "steered"),
        ]
      : []),
  );
  if (shown !== null && shown < points.length - 1) {
    const [cx, cy] = points[shown + 1];
    drawing.append(
      svg("line", { class: "cursor", x1: cx, x2: cx, y1: TOP, y2: HEIGHT - BOTTOM }),
      svg("circle", { class: "cursor", cx, cy, r: 4 }),
    );
  }
  place.replaceChildren(legend(reward && scores.length ? reward : null), drawing);
}

function frame(x, y, most, length) {
  const lines = [0, 0.5, 1].flatMap((share) => [
    svg("line", { class: "grid", x1: x(0), x2: x(length), y1: y(share), y2: y(share) }),
    svg("text", { x: LEFT - 6, y: y(share) + 4, "text-anchor": "end" }, plain(most * share, most < 2 ? 2 : 1)),
  ]);
  return [
    ...lines,
    svg("text", { x: x(0), y: HEIGHT - 8 }, "0"),
    svg("text", { x: x(length), y: HEIGHT - 8, "text-anchor": "end" }, `${length} tokens`),
  ];
}

const scoreAxis = (x, y, low, high) =>
  [low, high].map((value, share) => svg("text", { x: x + 6, y: y(share) + 4 }, plain(value)));

const series = (points, whose) => [
  svg("path", { class: `reward ${whose}`, d: points.length ? path(points) : "" }),
  ...points.map(([cx, cy]) => svg("circle", { class: `reward ${whose}`, cx, cy, r: 3 })),
];

function legend(reward) {
  const names = [["kl", "cumulative KL, nats"]];
  if (reward) names.push(["reward steered", `${reward}, steered`], ["reward base", `${reward}, base`]);
  return el("ul", { class: "chart-key" }, ...names.map(([kind, name]) => el("li", { class: kind }, name)));
}

function described(sums, reward, steered, base) {
  const cost = `Cumulative KL reaches ${plain(sums.at(-1))} nats after ${sums.length} tokens.`;
  const last = (name, list) => (list.length ? ` ${reward} of the ${name} answer: ${plain(list.at(-1).score)}.` : "");
  return cost + last("steered", steered) + last("base", base);
}

const path = (points) =>
  points.map(([px, py], index) => `${index ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");

function scoreRange(scores) {
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  if (low >= 0 && high <= 1) return [0, 1];
  const room = 0.05 * (high - low || 1);
  return [low - room, high + room];
}

function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((each) => each * power >= value) * power;
}
