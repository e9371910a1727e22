// One step under the glass: the token that was chosen, and what the base, each factor and the product say of it and of
// its alternatives.

import { byId, el } from "./dom.js";
import { colour, liftOf } from "./lift.js";
import { percent, plain, signed } from "./numbers.js";

/** Show a step; factors are those of the policy, with their exponents, for the heads of the columns. */
export function inspect(token, place, whose, factors) {
  const lift = liftOf(token);
  const swatch = el("span", { class: "swatch" }, visible(token.token));
  colour(swatch, lift);
  byId("inspector").replaceChildren(
    el("p", { class: "step" }, swatch, el("span", { class: "soft" }, ` token ${place + 1} of the ${whose} answer`)),
    el(
      "dl",
      { class: "figures" },
      ...figure("Steered", percent(token.logprob)),
      ...figure("Base", percent(token.reference_logprob)),
      ...figure("Log-ratio", `${signed(lift)} nats`),
      ...figure("KL of the step", `${plain(token.kl, 3)} nats`),
    ),
    token.factors
      ? tableOf(token, factors)
      : el("p", { class: "note" }, "This engine does not tell what else could have come."),
  );
}

/** Show that nothing is chosen yet. */
export function inspectNothing() {
  byId("inspector").replaceChildren(
    el(
      "p",
      { class: "soft" },
      "Point at a token, or move to one with Tab and the arrow keys, to see what else could have come.",
    ),
  );
}

const figure = (name, value) => [el("div", {}, el("dt", {}, name), el("dd", {}, value))];

function tableOf(token, factors) {
  const listed = token.alternatives ?? [];
  const rows = listed.some((each) => each.id === token.id) ? listed : [...listed, token];
  const names = Object.keys(token.factors ?? {});
  const exponents = new Map(factors.map((factor) => [factor.name, factor.exponent]));
  const heads = names.map((name) =>
    el("th", { scope: "col" }, name, el("small", {}, `^${grouped(exponents.get(name) ?? "1")}`)),
  );
  const means = new Map(names.map((name) => [name, mean(rows.map((row) => row.factors[name]))]));
  const widest = Math.max(
    1e-6,
    ...names.flatMap((name) => rows.map((row) => Math.abs(row.factors[name] - means.get(name)))),
  );
  return el(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": "Alternatives" },
    el(
      "table",
      { class: "alternatives" },
      el("caption", {}, "Probabilities; factors: exponent × log-probability, as a bar against the mean of these rows."),
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          el("th", { scope: "col" }, "Token"),
          el("th", { scope: "col" }, "Base"),
          ...heads,
          el("th", { scope: "col" }, "Product"),
        ),
      ),
      el("tbody", {}, ...rows.map((row) => rowOf(row, row.id === token.id, names, means, widest))),
    ),
  );
}

function rowOf(row, chosen, names, means, widest) {
  return el(
    "tr",
    { class: chosen ? "chosen" : null },
    el("th", { scope: "row" }, visible(row.token), chosen ? el("span", { class: "sr" }, " (chosen)") : null),
    el("td", {}, shareBar(row.reference_logprob, "base"), percent(row.reference_logprob)),
    ...names.map((name) =>
      el("td", {}, pushBar(row.factors[name] - means.get(name), widest), plain(row.factors[name])),
    ),
    el("td", {}, shareBar(row.logprob, "steered"), percent(row.logprob)),
  );
}

/** A bar as long as a probability. */
function shareBar(logProb, whose) {
  const bar = el("span", { class: `bar ${whose}`, "aria-hidden": "true" }, el("i"));
  bar.firstChild.style.width = `${Math.min(100, 100 * Math.exp(logProb))}%`;
  return bar;
}

/** A bar to the left or the right of the middle. */
function pushBar(push, widest) {
  const bar = el(
    "span",
    { class: "bar push", "aria-hidden": "true", "data-side": push < 0 ? "less" : "more" },
    el("i"),
  );
  const share = (50 * Math.abs(push)) / widest;
  bar.firstChild.style.width = `${share}%`;
  bar.firstChild.style.marginLeft = `${push < 0 ? 50 - share : 50}%`;
  return bar;
}

/** An exponent as one thing, in brackets where it has parts. */
const grouped = (exponent) => (/^[\w.]+$/.test(exponent) ? exponent : `(${exponent})`);

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** A token as it can be seen: its spaces and line ends as signs. */
export function visible(text) {
  return text === "" ? "∅" : text.replace(/^ | $/g, "␣").replace(/\n/g, "↵").replace(/\t/g, "⇥");
}
