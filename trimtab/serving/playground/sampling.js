// Temperature, top-p, length and seed: fields that follow the state, and a die for the seed.

import { byId } from "./dom.js";

const FIELDS = { temperature: "temperature", top_p: "top-p", max_tokens: "max-tokens", seed: "seed" };
const SEEDS = 1_000_000;

/** A seed that nobody chose, short enough to be read out. */
export const anySeed = () => Math.floor(Math.random() * SEEDS);

/** Bind the fields to the state. */
export function setUpSampling(store) {
  const put = (name, value) => store.set({ sampling: { ...store.get().sampling, [name]: value } });
  for (const [name, id] of Object.entries(FIELDS)) {
    const field = byId(id);
    field.addEventListener("input", () => {
      const valid = field.value !== "" && field.validity.valid;
      field.setAttribute("aria-invalid", String(!valid));
      if (valid) put(name, Number(field.value));
    });
  }
  byId("dice").addEventListener("click", () => put("seed", anySeed()));
  // On a narrow screen the answers matter more; the summary says what is set.
  if (matchMedia("(max-width: 60rem)").matches) byId("sampling-fold").open = false;
  store.listen(
    (state) => {
      byId("max-tokens").max = state.policy?.limits.max_tokens ?? 2048;
      for (const [name, id] of Object.entries(FIELDS)) {
        const field = byId(id);
        if (document.activeElement !== field) field.value = state.sampling[name];
      }
      const { temperature, top_p, max_tokens, seed } = state.sampling;
      byId("sampling-words").textContent = `T ${temperature}, top-p ${top_p}, ${max_tokens} tokens, seed ${seed}`;
    },
    "sampling",
    "policy",
  );
}
