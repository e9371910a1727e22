// Doing less often what is asked for often: once a hand rests, or every so many milliseconds.

/** A function that runs once calls have stopped for so many milliseconds; cancel() forgets the waiting one. */
export function debounced(action, wait) {
  let timer = 0;
  const later = (...given) => {
    clearTimeout(timer);
    timer = setTimeout(action, wait, ...given);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}

/** A function that runs now, and of the calls that follow within so many milliseconds once more, at their end. */
export function throttled(action, wait) {
  let timer = 0;
  let again = false;
  const run = (...given) => {
    if (timer) {
      again = true;
      return;
    }
    timer = setTimeout(() => {
      timer = 0;
      if (again) run(...given);
      again = false;
    }, wait);
    action(...given);
  };
  return run;
}
