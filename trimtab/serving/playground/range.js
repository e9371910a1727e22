// Where a knob's slider begins, ends and stops, also where its range is open.

/** Lowest and highest value and step of a slider; an open end lies two sizes of the default away. */
export function sliderRange(knob) {
  const span = 2 * Math.max(1, Math.abs(knob.default));
  const low = knob.min ?? knob.default - span;
  const high = knob.max ?? knob.default + span;
  const coarse = niceStep((high - low) / 60);
  const whole = Math.abs((knob.default - low) / coarse - Math.round((knob.default - low) / coarse)) < 1e-6;
  return { low, high, step: whole ? coarse : coarse / 100 };
}

/** `count` values evenly over the range, as short as the step allows. */
export function spread(knob, count) {
  const { low, high } = sliderRange(knob);
  return Array.from({ length: count }, (_, place) =>
    Number((low + ((high - low) * place) / (count - 1)).toPrecision(4)),
  );
}

/** 1, 2 or 5 times a power of ten, near what is given. */
function niceStep(given) {
  const power = 10 ** Math.floor(Math.log10(given));
  const factor = [1, 2, 5].find((each) => each * power >= given * 0.999) ?? 10;
  return Number((factor * power).toPrecision(3));
}
