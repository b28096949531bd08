// The frame view: draws before | after of one frame on a canvas, with a split that can be dragged. At
// 1:1 a received pixel is a pixel of the screen; what does not fit is scrolled.
//
// A received frame holds both halves side by side and, below them, a strip with the frame's index
// (see broadcast.py): so before and after always belong to the same frame. Where the browser itself
// restores, before and after are two images.

export const STRIP_HEIGHT = 16;
const CELLS = 32;

export class FrameView {
  #stage; #scroller; #canvas; #context; #handle; #received = null; #pair = null;
  split = 0.5;
  strength = 1; // share of the restored image right of the split
  frames = 0;
  drawn = 0; // when the newest frame was, in ms of performance.now()
  reserved = 330; // pixels of the window that are not the stage's
  zoomed = false;

  constructor(stage, scroller, canvas, handle) {
    [this.#stage, this.#scroller, this.#canvas, this.#handle] = [stage, scroller, canvas, handle];
    this.#context = canvas.getContext("2d", { alpha: false });
    stage.addEventListener("pointerdown", (event) => this.#grab(event));
    handle.addEventListener("keydown", (event) => this.#press(event));
    scroller.addEventListener("scroll", () => this.repaint());
    window.addEventListener("resize", () => this.fit());
    this.fit();
    this.move(this.split);
  }

  // Draw a frame (video element or bitmap) of the given size. A bitmap is kept until the next one.
  draw(source, width, height) {
    if (!width || !height) return;
    const [half, tall] = [width / 2, height - STRIP_HEIGHT];
    if (this.#received?.source !== source) this.#received?.source.close?.();
    this.#received = { source, width, height };
    const [before, after] = [0, half].map((x) => ({ source, x, width: half, height: tall }));
    this.#show({ before, after, width: half, height: tall });
  }

  // Draw two bitmaps of the same frame, which are kept until the next ones: before, and after, which
  // may be larger.
  drawPair(before, after) {
    const former = this.#pair;
    const [first, second] = [before, after].map((source) => ({ source, x: 0, width: source.width, height: source.height }));
    this.#show({ before: first, after: second, width: after.width, height: after.height });
    for (const half of former ? [former.before, former.after] : []) {
      if (half.source !== before && half.source !== after) half.source.close?.();
    }
  }

  // Return the whole image as it is right of the split, on a canvas of its own.
  compose() {
    const { width, height } = this.#pair;
    const context = new OffscreenCanvas(width, height).getContext("2d", { alpha: false });
    this.#drawAfter(context, 0, width);
    return context.canvas;
  }

  #show(pair) {
    this.#pair = pair;
    if (this.#canvas.width !== pair.width || this.#canvas.height !== pair.height) {
      [this.#canvas.width, this.#canvas.height] = [pair.width, pair.height];
      this.fit();
    }
    this.frames += 1;
    this.drawn = performance.now();
    this.#canvas.dataset.frames = this.frames;
    this.repaint();
  }

  // Move the split: 0 shows the restored frame alone, 1 the source frame alone.
  move(split) {
    this.split = Math.min(1, Math.max(0, split));
    this.#handle.style.left = `${100 * this.split}%`;
    const percent = Math.round(100 * this.split);
    this.#handle.setAttribute("aria-valuenow", percent);
    this.#handle.setAttribute("aria-valuetext", `${percent} percent before`);
    this.#stage.querySelector(".tag.before").style.opacity = this.split > 0.14 ? 1 : 0;
    this.#stage.querySelector(".tag.after").style.opacity = this.split < 0.86 ? 1 : 0;
    this.repaint();
  }

  // Show one pixel of the screen for each received one, around the middle; or the whole frame.
  zoom(on) {
    this.zoomed = on;
    this.#stage.classList.toggle("zoomed", on);
    if (on) {
      this.#scroller.tabIndex = 0;
      this.#scroller.setAttribute("role", "group");
      this.#scroller.setAttribute("aria-label", "The frame at 1:1; arrow keys scroll it");
    } else {
      for (const name of ["tabindex", "role", "aria-label"]) this.#scroller.removeAttribute(name);
    }
    this.fit();
    const { scrollWidth, clientWidth, scrollHeight, clientHeight } = this.#scroller;
    this.#scroller.scrollTo((scrollWidth - clientWidth) / 2, (scrollHeight - clientHeight) / 2);
    this.repaint();
  }

  get width() {
    return this.#canvas.width;
  }

  // Return the index of the frame in view; null where it cannot be read.
  get index() {
    if (!this.#received) return null;
    const { source, width, height } = this.#received;
    const strip = new OffscreenCanvas(width, 1).getContext("2d");
    strip.drawImage(source, 0, height - STRIP_HEIGHT / 2, width, 1, 0, 0, width, 1);
    const pixels = strip.getImageData(0, 0, width, 1).data;
    let word = 0n;
    for (let cell = 0; cell < CELLS; cell += 1) {
      const at = 4 * Math.floor(((cell + 0.5) * width) / CELLS);
      word = (word << 1n) | BigInt(pixels[at] + pixels[at + 1] + pixels[at + 2] > 382);
    }
    const index = Number((word >> 4n) & 0xffffffn);
    let check = 0;
    for (let shift = 0; shift < 24; shift += 4) check += (index >> shift) & 15;
    const intact = word >> 28n === 0b1010n && (word & 15n) === BigInt(check & 15);
    return intact ? index : null;
  }

  // Draw the frame in view again, with the present split and strength.
  repaint() {
    if (!this.#pair) return;
    const { before, width } = this.#pair;
    const cut = Math.round(width * this.#shareBefore());
    if (cut > 0) this.#drawColumns(this.#context, before, 0, cut);
    if (cut < width) this.#drawAfter(this.#context, cut, width);
  }

  #drawAfter(context, from, to) {
    const { before, after } = this.#pair;
    if (this.strength < 1) this.#drawColumns(context, before, from, to);
    context.globalAlpha = this.strength;
    this.#drawColumns(context, after, from, to);
    context.globalAlpha = 1;
  }

  // Draw the columns of one of the two, which are those of the canvas.
  #drawColumns(context, half, from, to) {
    const { width, height } = this.#pair;
    const [x, columns] = [half.x + (half.width * from) / width, (half.width * (to - from)) / width];
    context.drawImage(half.source, x, 0, columns, half.height, from, 0, to - from, height);
  }

  // Return the share of the canvas left of the split, which is a place of the stage.
  #shareBefore() {
    if (!this.zoomed) return this.split;
    const [stage, canvas] = [this.#stage.getBoundingClientRect(), this.#canvas.getBoundingClientRect()];
    const share = (stage.left + this.split * stage.width - canvas.left) / canvas.width;
    return Math.min(1, Math.max(0, share));
  }

  // Size the stage: as large as the window allows with the buttons visible.
  fit() {
    const ratio = this.#canvas.width / this.#canvas.height;
    const pixels = window.devicePixelRatio || 1;
    this.#canvas.style.width = this.zoomed ? `${this.#canvas.width / pixels}px` : "";
    this.#canvas.style.height = this.zoomed ? `${this.#canvas.height / pixels}px` : "";
    this.#stage.style.aspectRatio = String(ratio);
    const room = Math.max(220, window.innerHeight - this.reserved);
    this.#stage.style.maxWidth = window.innerWidth > 860 ? `${Math.round(room * ratio)}px` : "";
  }

  #grab(event) {
    if (event.button !== 0 || event.target.closest(".cover, button")) return;
    const isSplit = event.target.closest(".split") !== null;
    if (this.zoomed && !isSplit && event.pointerType !== "mouse") return; // fingers scroll
    let [x, y] = [event.clientX, event.clientY];
    const pan = (moved) => {
      this.#scroller.scrollBy(x - moved.clientX, y - moved.clientY);
      [x, y] = [moved.clientX, moved.clientY];
    };
    const moveSplit = (moved) => {
      const box = this.#stage.getBoundingClientRect();
      this.move((moved.clientX - box.left) / box.width);
    };
    const follow = this.zoomed && !isSplit ? pan : moveSplit;
    const release = () => {
      this.#stage.classList.remove("dragging");
      this.#stage.removeEventListener("pointermove", follow);
    };
    this.#stage.setPointerCapture(event.pointerId);
    this.#stage.classList.add("dragging");
    this.#stage.addEventListener("pointermove", follow);
    this.#stage.addEventListener("pointerup", release, { once: true });
    this.#stage.addEventListener("pointercancel", release, { once: true });
    follow(event);
    (follow === pan ? this.#scroller : this.#handle).focus({ preventScroll: true, focusVisible: false });
    event.preventDefault();
  }

  #press(event) {
    const step = event.shiftKey ? 0.1 : 0.02;
    const places = {
      ArrowLeft: this.split - step, ArrowDown: this.split - step,
      ArrowRight: this.split + step, ArrowUp: this.split + step,
      PageDown: this.split - 0.1, PageUp: this.split + 0.1, Home: 0, End: 1,
    };
    if (!(event.key in places)) return;
    this.move(places[event.key]);
    event.preventDefault();
  }
}
