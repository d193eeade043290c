// Starts the player of a page.

import { Player } from "./player.js";

/** Starts the player of a page, with the file that it holds (base64) or names, or with none. */
export async function startPage() {
  const root = document.getElementById("stgv");
  const about = JSON.parse(document.getElementById("stgv-about").textContent);
  const player = new Player(root, document);
  globalThis.stgvPlayer = player;
  const held = document.getElementById("stgv-file");
  if (held) {
    const text = atob(held.textContent.trim());
    const data = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) data[i] = text.charCodeAt(i);
    held.remove();
    player.open(data, about.name);
  } else if (about.source) {
    try {
      const answer = await fetch(about.source);
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      player.open(new Uint8Array(await answer.arrayBuffer()), about.name);
    } catch (error) {
      player.tell(`The file cannot be fetched: ${error.message}. Drop one here.`);
    }
    if (about.video) {
      const answer = await fetch(about.video);
      await player.compareWith(await answer.blob());
    }
  }
  document.documentElement.dataset.stgv = "ready";
}
