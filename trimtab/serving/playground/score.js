// What answers and their prefixes are worth by the reward that the server holds: one call for all of an answer.

import { fetchJson } from "./api.js";

const POINTS = 8;

/** Score texts that answer a prompt. */
export async function scoreTexts(prompt, completions, signal) {
  if (!completions.length) return [];
  return (await fetchJson("v1/score", { body: { prompt, completions }, signal })).scores;
}

/** Score prefixes of an answer, given as tokens, at a few even places: [{tokens, score}]. */
export async function scorePrefixes(prompt, tokens, signal) {
  const ends = evenEnds(tokens.length);
  const texts = ends.map((end) =>
    tokens
      .slice(0, end)
      .map((token) => token.token)
      .join(""),
  );
  const scores = await scoreTexts(prompt, texts, signal);
  return ends.map((end, place) => ({ tokens: end, score: scores[place] }));
}

/** Ends of prefixes: at most POINTS, the last one at the whole length. */
function evenEnds(length) {
  const count = Math.min(POINTS, length);
  return Array.from({ length: count }, (_, place) => Math.round(((place + 1) * length) / count));
}
