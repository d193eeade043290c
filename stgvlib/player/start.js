// Starts the player of a page, and that of a notebook.

import { Player } from "./player.js";

/** The player of a page, with the file that it holds (base64) or names, or with none. */
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
      player.open(new Uint8Array(await fetched(about.source)), about.name);
      if (about.video) await player.compareWith(new Blob([await fetched(about.video)], { type: about.type }));
    } catch (error) {
      player.tell(`The file cannot be fetched: ${error.message}. Drop one here.`);
    }
  }
  document.documentElement.dataset.stgv = "ready";
}

async function fetched(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  return answer.arrayBuffer();
}

/** The player of a notebook: asks Python for the file, once. @returns {function} ends it */
export function renderWidget({ model, el }) {
  const root = document.createElement("div");
  root.style.height = `${model.get("height")}px`;
  root.dataset.lmSuppressShortcuts = "true"; // keys are the player's while it has the focus
  el.append(root);
  const player = new Player(root);
  root.tabIndex = 0;
  const number = Math.random();
  const take = async (about, buffers) => {
    if (about.to !== number) return;
    const [data, video] = buffers.map(({ buffer, byteOffset, byteLength }) => {
      return new Uint8Array(buffer, byteOffset, byteLength).slice();
    });
    player.open(data, about.name);
    if (video) await player.compareWith(new Blob([video], { type: about.video }));
  };
  model.on("msg:custom", take);
  model.send({ from: number });
  return () => {
    model.off("msg:custom", take);
    player.closeFile();
  };
}
