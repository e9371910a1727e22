// Numbers as they are shown.

const MINUS = "\u2212";

/** With a sign, a true minus, and so many digits. */
export function signed(value, digits = 2) {
  if (value === null || !Number.isFinite(value)) return "–";
  return `${value < 0 ? MINUS : "+"}${Math.abs(value).toFixed(digits)}`;
}

/** Without a plus. */
export const plain = (value, digits = 2) => signed(value, digits).replace("+", "");

/** A probability from its logarithm, as a percentage that keeps small ones apart. */
export function percent(logProb) {
  if (logProb === null) return "–";
  const share = 100 * Math.exp(logProb);
  if (!Number.isFinite(share)) return "–";
  if (share >= 99.95) return "100%";
  if (share >= 10) return `${share.toFixed(0)}%`;
  if (share >= 0.1) return `${share.toFixed(1)}%`;
  return share >= 0.001 ? `${share.toFixed(3)}%` : "<0.001%";
}

/** A setting as it is read, with a true minus. */
export const plainTidy = (value) => String(tidy(value)).replace("-", MINUS);

/** A setting without a tail of digits that nobody chose. */
export const tidy = (value) => Number(value.toPrecision(6));
