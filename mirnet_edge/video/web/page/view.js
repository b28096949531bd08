// The frame view: draws before | after of one frame on a canvas, with a split that can be dragged. At
// 1:1 a received pixel is a pixel of the screen; what does not fit is scrolled.
//
// A received frame holds both halves side by side and, below them, a strip with the frame's index
// (see broadcast.py): so before and after always belong to the same frame.

const STRIP_HEIGHT = 16;
const CELLS = 32;

export class FrameView {
  #stage; #scroller; #canvas; #context; #handle; #received = null;
  split = 0.5;
  frames = 0;
  drawn = 0; // when the newest frame was, in ms of performance.now()
  reserved = 330; // pixels of the window that are not the stage's
  zoomed = false;

  constructor(stage, scroller, canvas, handle) {
    [this.#stage, this.#scroller, this.#canvas, this.#handle] = [stage, scroller, canvas, handle];
    this.#context = canvas.getContext("2d", { alpha: false });
    stage.addEventListener("pointerdown", (event) => this.#grab(event));
    handle.addEventListener("keydown", (event) => this.#press(event));
    scroller.addEventListener("scroll", () => this.#paint());
    window.addEventListener("resize", () => this.fit());
    this.fit();
    this.move(this.split);
  }

  // Draw a frame (video element or bitmap) of the given size. A bitmap is kept until the next one.
  draw(source, width, height) {
    if (!width || !height) return;
    const [half, tall] = [width / 2, height - STRIP_HEIGHT];
    if (this.#canvas.width !== half || this.#canvas.height !== tall) {
      [this.#canvas.width, this.#canvas.height] = [half, tall];
      this.fit();
    }
    if (this.#received?.source !== source) this.#received?.source.close?.();
    this.#received = { source, width, height };
    this.frames += 1;
    this.drawn = performance.now();
    this.#canvas.dataset.frames = this.frames;
    this.#paint();
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
    this.#paint();
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
    this.#paint();
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

  #paint() {
    if (!this.#received) return;
    const { source, width, height } = this.#received;
    const [half, tall] = [width / 2, height - STRIP_HEIGHT];
    const cut = Math.round(half * this.#shareBefore());
    if (cut > 0) this.#context.drawImage(source, 0, 0, cut, tall, 0, 0, cut, tall);
    if (cut < half) {
      this.#context.drawImage(source, half + cut, 0, half - cut, tall, cut, 0, half - cut, tall);
    }
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
