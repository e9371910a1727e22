// The policy's formula with its knobs' numbers in it, and a field to try another.

import { byId, el } from "./dom.js";
import { tidy } from "./numbers.js";

/** Show the formula and bind its field to the state. */
export function setUpFormula(store) {
  const field = byId("formula-field");
  field.addEventListener("change", () => {
    const given = field.value.trim();
    const own = store.get().policy.expression;
    store.set({ formula: given === "" || given === own ? null : given });
  });
  byId("formula-reset").addEventListener("click", () => store.set({ formula: null }));
  store.listen(
    (state) => {
      const text = state.formula ?? state.policy.expression;
      byId("formula").replaceChildren(...withNumbers(text, state.knobs));
      if (document.activeElement !== field) field.value = text;
      byId("formula-reset").disabled = state.formula === null;
    },
    "policy",
    "knobs",
    "formula",
  );
}

/** The text with each knob as its name and number. */
function withNumbers(text, knobs) {
  return text.split(/([A-Za-z_]\w*)/).map((part, place) => {
    if (place % 2 === 0 || !(part in knobs)) return part;
    return el("span", { class: "value", title: part }, String(tidy(knobs[part])));
  });
}
