// Restoration in this browser, where the server sends frames as they are: `--compute browser`.

import { Engine, loadFacts } from "./engine.js";

const RATE_FRAMES = 12; // over which frames per second are measured

export class LocalRestoration {
  #view; #onChange; #busy = false; #times = [];
  engine = null;
  on = true;
  ms = 0; // of the last frame
  dropped = 0; // that came while another was restored

  // `onChange()` is called when what restores changes.
  constructor(view, { onChange }) {
    [this.#view, this.#onChange] = [view, onChange];
  }

  async open() {
    const engine = new Engine(await loadFacts(), { onChange: this.#onChange });
    await engine.open();
    this.engine = engine;
  }

  // Restore a received frame and draw it; one that comes too early is dropped. Resolve with whether
  // it was drawn.
  async show(source, width, height) {
    if (this.#busy) {
      this.dropped += 1;
      source.close?.();
      return false;
    }
    this.#busy = true;
    try {
      const bitmap = await createImageBitmap(source, 0, 0, width, height);
      source.close?.();
      if (this.on) {
        const { before, after, ms } = await this.engine.restore(bitmap, { isVideo: true });
        this.#view.drawPair(before, after);
        this.ms = ms;
      } else {
        this.#view.drawPair(bitmap, bitmap);
      }
      this.#times.push(performance.now());
      if (this.#times.length > RATE_FRAMES) this.#times.shift();
    } finally {
      this.#busy = false;
    }
    return true;
  }

  get fps() {
    const seconds = (this.#times.at(-1) - this.#times[0]) / 1000;
    return seconds ? (this.#times.length - 1) / seconds : 0;
  }
}
