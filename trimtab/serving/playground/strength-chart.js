// What strengths cost and bring, in one small picture: KL a token over the knob, and the reward where there is one.

import { el, svg } from "./dom.js";
import { plain, plainTidy } from "./numbers.js";

const WIDTH = 280;
const HEIGHT = 190;
const EDGE = { left: 38, right: 38, top: 14, bottom: 24 };

/** Draw [{value, kl, score}], in any order; kl and score may be null. */
export function strengthChart(points, knob, reward) {
  const known = points.filter((point) => point.kl !== null).sort((a, b) => a.value - b.value);
  if (known.length < 2) return el("p", { class: "soft" }, "What each strength costs appears here.");
  const most = Math.max(0.01, ...known.map((point) => point.kl));
  const [first, last] = [known[0].value, known.at(-1).value];
  const scores = known.filter((point) => point.score !== null);
  const [low, high] = reach(scores.map((point) => point.score));
  const x = (value) => EDGE.left + ((WIDTH - EDGE.left - EDGE.right) * (value - first)) / (last - first || 1);
  const y = (share) => EDGE.top + (HEIGHT - EDGE.top - EDGE.bottom) * (1 - share);
  const cost = known.map((point) => [x(point.value), y(point.kl / most)]);
  const worth = scores.map((point) => [x(point.value), y((point.score - low) / (high - low))]);
  const said = known.map(
    (point) =>
      `${plainTidy(point.value)}: ${plain(point.kl)} nats${point.score === null ? "" : `, ${plain(point.score)}`}`,
  );
  return el(
    "div",
    { class: "strength-chart" },
    el(
      "ul",
      { class: "chart-key" },
      el("li", {}, "KL, nats a token"),
      ...(worth.length ? [el("li", { class: "reward" }, reward)] : []),
    ),
    svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `By ${knob}: ${said.join("; ")}` },
      ...[0, 1].flatMap((share) => [
        svg("line", { class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(share), y2: y(share) }),
        svg("text", { x: EDGE.left - 6, y: y(share) + 4, "text-anchor": "end" }, plain(most * share)),
        ...(worth.length
          ? [svg("text", { x: WIDTH - EDGE.right + 6, y: y(share) + 4 }, plain(share ? high : low))]
          : []),
      ]),
      ...line(cost, "kl"),
      ...(worth.length ? line(worth, "reward steered") : []),
      svg("text", { x: x(first), y: HEIGHT - 6 }, plainTidy(first)),
      svg("text", { x: (x(first) + x(last)) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, knob),
      svg("text", { x: x(last), y: HEIGHT - 6, "text-anchor": "end" }, plainTidy(last)),
    ),
  );
}

const line = (points, kind) => [
  svg("path", {
    class: kind,
    d: points.map(([px, py], place) => `${place ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join(""),
  }),
  ...points.map(([cx, cy]) => svg("circle", { class: kind, cx, cy, r: 3 })),
];

function reach(scores) {
  if (!scores.length || scores.every((score) => score >= 0 && score <= 1)) return [0, 1];
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  return low === high ? [low - 1, high + 1] : [low, high];
}
