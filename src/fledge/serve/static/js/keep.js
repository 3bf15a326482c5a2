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

export function keep(place, key, value) {
  kept.set(key, value);
  try {
    window[place].setItem(`fledge.${key}`, value);
  } catch {
    // It is in `kept`.
  }
}
