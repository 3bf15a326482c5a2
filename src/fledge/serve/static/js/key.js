// The API key, where the server asks for one: kept until the tab is closed.

import { $, html } from "./dom.js";

export const key = () => sessionStorage.getItem("fledge.key");

/** Asks the user for the key; resolves to whether one was given. */
export function askForKey() {
  const dialog = $("#key");
  $("#key-wrong").hidden = !key();
  dialog.returnValue = "";
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "given"), { once: true });
  });
}

const keep = () => sessionStorage.setItem("fledge.key", $("#key-box").value.trim());

export const view = () => html`
  <dialog id="key" aria-labelledby="key-title">
    <form method="dialog" @submit=${keep}>
      <h2 id="key-title">This server asks for a key</h2>
      <p id="key-wrong" class="wrong" hidden>The server did not accept that key.</p>
      <label for="key-box">API key</label>
      <input id="key-box" type="password" autocomplete="off" required aria-describedby="key-about">
      <small id="key-about">Kept until this tab is closed.</small>
      <footer>
        <button type="button" class="plain" @click=${() => $("#key").close()}>Cancel</button>
        <button class="solid" value="given">Continue</button>
      </footer>
    </form>
  </dialog>`;
