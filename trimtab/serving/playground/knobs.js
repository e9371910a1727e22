// A slider, a number field and a way back for each knob of the policy. The sign beside its name is a rudder whose trim
// tab turns with the knob.

import { byId, el, svg } from "./dom.js";
import { plainTidy, tidy } from "./numbers.js";
import { sliderRange } from "./range.js";

const MOST = 32; // degrees of the tab

/** Make the controls anew for each policy, and keep them in step with the state. */
export function setUpKnobs(store) {
  const place = byId("knobs");
  let controls = new Map();
  const put = (name, value) => store.set({ knobs: { ...store.get().knobs, [name]: value } });
  store.listen((state) => {
    controls = new Map(
      state.policy.knobs.map((knob) => [knob.name, controlOf(knob, (value) => put(knob.name, value))]),
    );
    place.replaceChildren(...[...controls.values()].map((control) => control.root));
    byId("no-knobs").hidden = controls.size > 0;
    refresh(state);
  }, "policy");
  store.listen(refresh, "knobs");

  function refresh(state) {
    for (const [name, control] of controls) if (name in state.knobs) control.show(state.knobs[name]);
    byId("logo-tab").style.transform = `rotate(${deflection(state.policy?.knobs[0], state.knobs)}deg)`;
  }
}

function controlOf(knob, put) {
  const { low, high, step } = sliderRange(knob);
  const id = `knob-${knob.name}`;
  const slider = el("input", { type: "range", id, min: low, max: high, step, "aria-describedby": `${id}-ends` });
  const field = el("input", {
    type: "number",
    min: knob.min,
    max: knob.max,
    step: "any",
    "aria-label": `${knob.name}, number`,
  });
  const back = el("button", { type: "button", class: "quiet small", onclick: () => put(knob.default) }, "reset");
  back.setAttribute("aria-label", `Reset ${knob.name} to ${tidy(knob.default)}`);
  back.title = `Back to ${tidy(knob.default)}`;
  const mark = el("span", { class: "default-mark", "aria-hidden": "true" });
  mark.style.setProperty("--at", (knob.default - low) / (high - low));
  const { root: sign, tab } = rudder();
  slider.addEventListener("input", () => put(tidy(Number(slider.value))));
  field.addEventListener("input", () => {
    if (field.value !== "" && field.validity.valid) put(Number(field.value));
    field.setAttribute("aria-invalid", String(!field.validity.valid || field.value === ""));
  });
  const ends = el(
    "p",
    { class: "ends", id: `${id}-ends` },
    endWord(knob.min, low),
    el("span", { class: "sr" }, " to "),
    endWord(knob.max, high),
  );
  const root = el(
    "div",
    { class: "knob" },
    el("div", { class: "knob-head" }, sign, el("label", { for: id }, knob.name), field, back),
    el("div", { class: "track" }, mark, slider),
    ends,
  );
  return {
    root,
    show(value) {
      // An open end gives way to a number that was typed beyond it.
      slider.min = Math.min(low, value);
      slider.max = Math.max(high, value);
      slider.value = value;
      slider.style.setProperty("--at", (value - Number(slider.min)) / (Number(slider.max) - Number(slider.min)));
      mark.style.setProperty("--at", (knob.default - Number(slider.min)) / (Number(slider.max) - Number(slider.min)));
      slider.setAttribute("aria-valuetext", plainTidy(value));
      if (document.activeElement !== field) {
        field.value = tidy(value);
        field.setAttribute("aria-invalid", "false");
      }
      back.disabled = value === knob.default;
      tab.style.transform = `rotate(${deflection(knob, { [knob.name]: value })}deg)`;
    },
  };
}

const endWord = (end, shown) => el("span", {}, end === null ? `${plainTidy(shown)} (open)` : plainTidy(end));

function deflection(knob, knobs) {
  if (!knob || !(knob.name in knobs)) return 0;
  const { low, high } = sliderRange(knob);
  const away = knobs[knob.name] - Math.max(low, Math.min(high, 0));
  return Math.max(-MOST, Math.min(MOST, (MOST * away) / Math.max(high, -low)));
}

function rudder() {
  const tab = svg("path", { class: "tab", d: "M15 4.2 23 6 15 7.8Z" });
  const root = svg(
    "svg",
    { class: "rudder", viewBox: "0 0 26 12", "aria-hidden": "true" },
    svg("path", { class: "blade", d: "M1 6C3 2.6 9 2.6 14 4.2V7.8C9 9.4 3 9.4 1 6Z" }),
    tab,
  );
  return { root, tab };
}
