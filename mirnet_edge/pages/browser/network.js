// The network in a session of ONNX Runtime Web: one frame in, one restored frame out. Frames are
// ImageData or the like: { data, width, height } with RGBA in data, rows from the top.

export class Network {
  #ort; #session; #facts;

  // `facts` is page.json: what the graph takes and gives.
  constructor(ort, session, facts) {
    [this.#ort, this.#session, this.#facts] = [ort, session, facts];
    this.contextLength = facts.vectors.reduce((sum, vector) => sum + vector.size, 0);
  }

  // Resolve with the restored frame of a part of an image, and the global context vectors used.
  // `context` (Float32Array) counts with the weight given, from 0, the part's own vectors, to 1.
  async restore(image, part, context = null, weight = 0) {
    const [tall, wide] = this.sizeFor(part.height, part.width);
    const { tensor, used } = await this.#run(this.#toTensor(image, part, tall, wide), tall, wide, context, weight);
    const scale = this.#facts.scale;
    const restored = this.#fromTensor(tensor, scale * tall, scale * wide, scale * part.height, scale * part.width);
    return { restored, used };
  }

  // Resolve with the global context vectors of a frame of floats: (height, width, 3), 0 to 255.
  async contextOf(levels, height, width) {
    const [tall, wide] = this.sizeFor(height, width);
    const at = { data: levels, width, height, channels: 3 };
    return (await this.#run(this.#toTensor(at, { x: 0, y: 0, width, height }, tall, wide), tall, wide, null, 0)).used;
  }

  // Return the size [height, width] that a frame is padded to.
  sizeFor(height, width) {
    const { multiple, size } = this.#facts;
    if (size) return size;
    return [height, width].map((side) => Math.ceil(side / multiple) * multiple);
  }

  async #run(values, tall, wide, context, weight) {
    const { Tensor } = this.#ort;
    const shape = this.#facts.io === "uint8" ? [1, tall, wide, 3] : [1, 3, tall, wide];
    const [frames, vectors, memory] = this.#session.inputNames;
    const feeds = { [frames]: new Tensor("float32", values, shape) };
    if (vectors) {
      const given = context ?? new Float32Array(this.contextLength);
      feeds[vectors] = new Tensor("float32", given, [1, this.contextLength]);
      feeds[memory] = new Tensor("float32", Float32Array.of(weight), [1]);
    }
    const results = await this.#session.run(feeds);
    const [restored, context_out] = this.#session.outputNames;
    const tensor = await results[restored].getData();
    const used = context_out ? Float32Array.from(await results[context_out].getData()) : null;
    for (const result of Object.values(results)) result.dispose();
    return { tensor, used };
  }

  // Return a part of an image as the graph takes it; beyond its borders the image is reflected.
  #toTensor(image, part, tall, wide) {
    const step = image.channels ?? 4;
    const columns = Array.from({ length: wide }, (_, at) => step * reflect(part.x + at, image.width));
    const rows = Array.from({ length: tall }, (_, at) => step * image.width * reflect(part.y + at, image.height));
    const values = new Float32Array(3 * tall * wide);
    const { data } = image;
    if (this.#facts.io === "uint8") {
      let at = 0;
      for (const row of rows) {
        for (const column of columns) {
          const from = row + column;
          values[at] = data[from];
          values[at + 1] = data[from + 1];
          values[at + 2] = data[from + 2];
          at += 3;
        }
      }
      return values;
    }
    const plane = tall * wide;
    let at = 0;
    for (const row of rows) {
      for (const column of columns) {
        const from = row + column;
        for (let channel = 0; channel < 3; channel += 1) values[channel * plane + at] = data[from + channel] / 255;
        at += 1;
      }
    }
    return values;
  }

  // Return the top left part of a result as RGBA. A clamped array rounds half to even, as the graph
  // of 8-bit frames does.
  #fromTensor(values, tall, wide, height, width) {
    const data = new Uint8ClampedArray(4 * height * width).fill(255);
    const isLevels = this.#facts.io === "uint8";
    const [pixel, channel, factor] = isLevels ? [3, 1, 1] : [1, tall * wide, 255];
    let at = 0;
    for (let row = 0; row < height; row += 1) {
      let from = pixel * row * wide;
      for (let column = 0; column < width; column += 1) {
        data[at] = factor * values[from];
        data[at + 1] = factor * values[from + channel];
        data[at + 2] = factor * values[from + 2 * channel];
        at += 4;
        from += pixel;
      }
    }
    return { data, width, height };
  }
}

// Return the index that stands for one beyond a side: back and forth where the side is short.
export function reflect(index, length) {
  if (index < length) return index;
  const period = Math.max(1, 2 * (length - 1));
  return Math.min(index % period, period - (index % period));
}
