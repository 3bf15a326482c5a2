// What survives a reload: localStorage, sessionStorage. A browser that blocks site data throws as soon as one is touched, one that
// is full where it is written: then it lasts until the page is closed.

const kept = new Map();

export function recall(place, key) {
  try {
    return kept.get(key) ?? window[place].getItem(`fledge.${key}`);
  } catch {
    return null;
  }
}

/** Keeps a text; an empty one is forgotten. */
export function keep(place, key, value) {
  kept.set(key, value);
  try {
    if (value) window[place].setItem(`fledge.${key}`, value);
    else window[place].removeItem(`fledge.${key}`);
  } catch {
    // It is in `kept`.
  }
}
