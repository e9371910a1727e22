// How much steering moved a token, as a number and as a colour.

/** Log-ratios beyond this many nats are all as strongly coloured. */
export const FULL = 3;

/** log policy - log base of a token, in nats; 0 where an engine does not tell the base's. */
export const liftOf = (token) => (token.reference_logprob === null ? 0 : token.logprob - token.reference_logprob);

/** Colour an element by a log-ratio: the side says which way, the strength (0 to 1) how far. */
export function colour(element, lift) {
  const strength = Math.min(1, Math.abs(lift) / FULL);
  element.dataset.side = strength < 0.03 ? "none" : lift > 0 ? "more" : "less";
  element.style.setProperty("--strength", strength.toFixed(3));
}
