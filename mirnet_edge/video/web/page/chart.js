// A line chart of the last minute: from 0 to a round number above nearly all values. A spike is
// clipped at the top, so that it does not flatten the rest.

const LENGTH = 300; // points; status messages come five to ten times a second
const COVERED = 0.95; // share of the values below the top
const ROOM = 1.2; // the top is that much above them, so that a steady line is not at the edge

export class Chart {
  #canvas;
  #values = [];
  #top = 1;

  constructor(canvas) {
    this.#canvas = canvas;
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  add(value) {
    this.#values.push(value);
    if (this.#values.length > LENGTH) this.#values.shift();
    this.draw();
  }

  // Return the value at the top. It changes only where the values no longer fit, or are far below it.
  get top() {
    const sorted = [...this.#values].sort((one, two) => one - two);
    const high = sorted[Math.floor(COVERED * (sorted.length - 1))] ?? 0;
    const fitting = roundAbove(Math.max(1, ROOM * high));
    if (fitting > this.#top || fitting < this.#top / 2) this.#top = fitting;
    return this.#top;
  }

  draw() {
    const canvas = this.#canvas;
    const scale = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
    if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
    const context = canvas.getContext("2d");
    const style = getComputedStyle(canvas);
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    const top = this.top;
    canvas.dataset.top = top;
    this.#drawScale(context, width, height, top, style.getPropertyValue("--line"), style.getPropertyValue("--soft"));
    if (this.#values.length < 2) return;

    const place = (value, at) => [
      width - ((this.#values.length - 1 - at) / (LENGTH - 1)) * width,
      height - 3 - (Math.min(value, top) / top) * (height - 16),
    ];
    const line = new Path2D();
    this.#values.forEach((value, at) => line.lineTo(...place(value, at)));
    const area = new Path2D(line);
    area.lineTo(width, height);
    area.lineTo(place(0, 0)[0], height);
    context.fillStyle = context.strokeStyle = style.color;
    context.globalAlpha = 0.14;
    context.fill(area);
    context.globalAlpha = 1;
    context.lineWidth = 1.8;
    context.lineJoin = "round";
    context.stroke(line);
  }

  #drawScale(context, width, height, top, line, ink) {
    context.strokeStyle = line;
    context.lineWidth = 1;
    context.beginPath();
    for (const y of [13.5, height - 2.5]) {
      context.moveTo(0, y);
      context.lineTo(width, y);
    }
    context.stroke();
    context.fillStyle = ink;
    context.font = "11px system-ui, sans-serif";
    context.fillText(String(top), 0, 10);
  }
}

function roundAbove(value) {
  const step = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 5, 10].map((factor) => factor * step).find((round) => round >= value) ?? 20 * step;
}
