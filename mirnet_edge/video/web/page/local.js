// Restoration in this browser, where the server sends frames as they are: `--compute browser`.

import { Engine, loadFacts } from "./engine.js";

const RATE_FRAMES = 12; // over which frames per second are measured
const AGE_FRAMES = 200; // over which the percentile of the frame age is taken

export class LocalRestoration {
  #view; #onChange; #busy = false; #times = []; #ages = [];
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
  // it was drawn. `age` is what the server says of the frame, in ms: what this takes comes on top.
  async show(source, width, height, age) {
    if (this.#busy) {
      this.dropped += 1;
      source.close?.();
      return false;
    }
    this.#busy = true;
    const received = performance.now();
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
      const drawn = performance.now();
      this.#times.push(drawn);
      if (this.#times.length > RATE_FRAMES) this.#times.shift();
      this.#ages.push(age + drawn - received);
      if (this.#ages.length > AGE_FRAMES) this.#ages.shift();
    } finally {
      this.#busy = false;
    }
    return true;
  }

  // Return the age of the last frame that was drawn, and the 95th percentile of the last ones, in ms.
  get ages() {
    const sorted = [...this.#ages].sort((one, two) => one - two);
    return { age: this.#ages.at(-1) ?? 0, p95: sorted[Math.floor(0.95 * (sorted.length - 1))] ?? 0 };
  }

  get fps() {
    const seconds = (this.#times.at(-1) - this.#times[0]) / 1000;
    return seconds ? (this.#times.length - 1) / seconds : 0;
  }
}
