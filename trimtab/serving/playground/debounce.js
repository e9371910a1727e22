// Waiting until a hand rests.

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
