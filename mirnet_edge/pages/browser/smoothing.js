// Smooths the global context vectors of a video over time, so that its brightness does not flicker,
// and forgets them at scene cuts: as `mirnet_edge.runtime.temporal_smoothing` does.

const SIZE = [32, 18]; // of a signature, width and height

export class Smoother {
  #rates; #canvas; #state = null;

  // `rates` holds the weight, and the changes up to which it is kept and from which it is a cut.
  constructor(rates) {
    this.#rates = rates;
    this.#canvas = new OffscreenCanvas(...SIZE).getContext("2d", { willReadFrequently: true });
    this.#canvas.imageSmoothingQuality = "high";
  }

  // Return { context, weight, keep } for a frame: call keep with the vectors that were used.
  begin(bitmap) {
    const signature = this.#signatureOf(bitmap);
    const mean = meanOf(signature);
    const state = this.#state?.width === bitmap.width && this.#state.height === bitmap.height ? this.#state : null;
    const weight = state ? this.#rates.weight * this.#scaleFor(state, signature, mean) : 0;
    this.#state = null;
    const keep = (context) => {
      if (!context.every(Number.isFinite)) return;
      const smoothed = weight ? mean.map((value, at) => (1 - weight) * value + weight * state.mean[at]) : mean;
      this.#state = { width: bitmap.width, height: bitmap.height, signature, mean: smoothed, context };
    };
    return { context: weight ? state.context : null, weight, keep };
  }

  reset() {
    this.#state = null;
  }

  #scaleFor(state, signature, mean) {
    const change = signature.reduce((sum, value, at) => sum + Math.abs(value - state.signature[at]), 0) / signature.length;
    const drift = mean.reduce((sum, value, at) => sum + Math.abs(value - state.mean[at]), 0) / 3;
    const { still, cut } = this.#rates;
    return Math.min(1, Math.max(0, (cut - Math.max(change, drift)) / (cut - still)));
  }

  // Return the square roots of the means of 32x18 blocks: noise is then about equal everywhere.
  #signatureOf(bitmap) {
    this.#canvas.drawImage(bitmap, 0, 0, ...SIZE);
    const { data } = this.#canvas.getImageData(0, 0, ...SIZE);
    const signature = new Float32Array((3 * data.length) / 4);
    for (let from = 0, to = 0; from < data.length; from += 4) {
      for (let channel = 0; channel < 3; channel += 1, to += 1) signature[to] = Math.sqrt(data[from + channel] / 255);
    }
    return signature;
  }
}

function meanOf(signature) {
  const sums = [0, 0, 0];
  signature.forEach((value, at) => (sums[at % 3] += value));
  return sums.map((sum) => (3 * sum) / signature.length);
}
