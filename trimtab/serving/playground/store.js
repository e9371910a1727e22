// The page's state: one plain object that is replaced, never changed, and those who want to know when it is.

/** Hold a state; listeners are told the new one and the names that changed. */
export function createStore(initial) {
  let state = Object.freeze({ ...initial });
  const listeners = new Set();
  return {
    get: () => state,
    set(patch) {
      const changed = new Set(Object.keys(patch).filter((name) => patch[name] !== state[name]));
      if (!changed.size) return;
      state = Object.freeze({ ...state, ...patch });
      for (const listener of listeners) listener(state, changed);
    },
    /** Call on every change, or only where one of these names is among them. */
    listen(listener, ...names) {
      listeners.add((now, changed) => {
        if (!names.length || names.some((name) => changed.has(name))) listener(now, changed);
      });
    },
  };
}
