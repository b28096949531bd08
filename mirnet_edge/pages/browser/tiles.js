// Images that are too large for one run, in overlapping tiles. Where the graph takes global context
// vectors, all tiles get those of the whole image: then there are no seams.

import { reflect } from "./network.js";

// Return the fewest tiles of a length that cover a side with at least an overlap: their origins.
function tileOrigins(length, tile, overlap, multiple) {
  if (tile >= length) return [0];
  const step = Math.max(multiple, Math.floor((tile - overlap) / multiple) * multiple);
  const last = length - tile;
  const count = Math.ceil(last / step) + 1;
  const inner = Array.from({ length: count - 1 }, (_, place) => Math.floor((place * last) / (count - 1) / multiple) * multiple);
  return [...inner, last];
}

// Resolve with the restored image of an image in tiles of [height, width] at most.
export async function restoreInTiles(network, facts, image, tile, onTile) {
  const grid = gridOf(facts, image, tile);
  const context = network.contextLength ? await contextByTiles(network, facts, image, grid) : null;
  const { reach, scale } = facts;
  const overlap = roundUp(reach === null ? facts.tiling.overlap : 2 * reach, facts.multiple);
  // neighbors agree from the reach on; without one vector for all they are blended
  const blend = context && reach !== null ? 0 : overlap;
  const { down, across } = grid.origins(overlap);
  const [width, height] = [scale * image.width, scale * image.height];
  const whole = new Uint8ClampedArray(4 * width * height);
  const band = new Uint8ClampedArray(4 * width * scale * grid.height);
  let done = 0;
  for (const [row, y] of down.entries()) {
    for (const [column, x] of across.entries()) {
      const part = { x, y, width: grid.width, height: grid.height };
      const { restored } = await network.restore(image, part, context, context ? 1 : 0);
      mixColumns(band, width, restored, scale * x, weightsOf(across, column, grid.width, blend, scale));
      done += 1;
      onTile?.(done, down.length * across.length);
    }
    mixRows(whole, width, height, band, scale * y, weightsOf(down, row, grid.height, blend, scale));
  }
  return { data: whole, width, height };
}

// Return the size of an image's tiles and their origins. All are multiples, for the grid of strided
// layers: the last tiles may reach beyond the image, which is reflected there.
function gridOf({ multiple, size }, image, tile) {
  const lengths = [image.height, image.width].map((side, axis) => Math.max(roundUp(side, multiple), size ? size[axis] : 0));
  const [height, width] = lengths.map((length, axis) => Math.min(tile[axis], length));
  const origins = (overlap) => ({
    down: tileOrigins(lengths[0], height, overlap, multiple),
    across: tileOrigins(lengths[1], width, overlap, multiple),
  });
  return { height, width, lengths, origins };
}

// Return the share that a tile has at each of its pixels; the tile before it has the rest.
function weightsOf(origins, number, tile, blend, scale) {
  const weights = new Float32Array(scale * tile).fill(1);
  if (number === 0) return weights;
  const shared = origins[number - 1] + tile - origins[number];
  const [middle, wide] = [(scale * shared) / 2, scale * Math.min(blend, shared)];
  return weights.map((_, index) => {
    const place = index + 0.5 - middle;
    return wide ? Math.min(1, Math.max(0, place / wide + 0.5)) : Number(place > 0);
  });
}

function mixColumns(band, width, tile, x, weights) {
  const count = Math.min(tile.width, width - x);
  for (let row = 0; row < tile.height; row += 1) {
    let to = 4 * (row * width + x);
    let from = 4 * row * tile.width;
    for (let column = 0; column < count; column += 1, to += 4, from += 4) mixPixel(band, to, tile.data, from, weights[column]);
  }
}

function mixRows(whole, width, height, band, y, weights) {
  for (const [row, weight] of weights.subarray(0, height - y).entries()) {
    const [to, from, length] = [4 * (y + row) * width, 4 * row * width, 4 * width];
    if (weight === 1) whole.set(band.subarray(from, from + length), to);
    else if (weight > 0) for (let at = 0; at < length; at += 4) mixPixel(whole, to + at, band, from + at, weight);
  }
}

function mixPixel(into, to, source, from, weight) {
  if (weight === 0) return;
  for (let channel = 0; channel < 3; channel += 1) {
    const below = into[to + channel];
    into[to + channel] = weight === 1 ? source[from + channel] : below + weight * (source[from + channel] - below);
  }
  into[to + 3] = 255;
}

// Resolve with the global context vectors of a whole image. Those of a thumbnail are exact; means
// over the image are the mean of the tiles' means, measured at the exposure of the whole image.
async function contextByTiles(network, facts, image, grid) {
  const decided = placesOf(facts.vectors).filter(({ thumbnail }) => thumbnail);
  let estimate = null;
  if (decided.length) {
    const small = shrink(image, grid, facts.multiple);
    estimate = await contextOfImage(network, small);
    for (const { begin, end, thumbnail } of decided) {
      const [height, width] = thumbnail.size.map((side) => side * thumbnail.factor);
      const context = await network.contextOf(spread(thumbnailOf(image, grid.lengths, thumbnail), thumbnail), height, width);
      estimate.set(context.subarray(begin, end), begin);
    }
  }
  const mean = await meanOfTiles(network, facts, image, grid, estimate);
  for (const { begin, end } of decided) mean.set(estimate.subarray(begin, end), begin);
  return mean;
}

async function contextOfImage(network, image) {
  return (await network.restore(image, { x: 0, y: 0, width: image.width, height: image.height })).used;
}

async function meanOfTiles(network, facts, image, grid, estimate) {
  const { down, across } = grid.origins(0);
  const total = new Float64Array(network.contextLength);
  const weight = estimate ? facts.tiling.estimate_weight : 0;
  for (const y of down) {
    for (const x of across) {
      const { used } = await network.restore(image, { x, y, width: grid.width, height: grid.height }, estimate, weight);
      used.forEach((value, at) => (total[at] += estimate ? (value - weight * estimate[at]) / (1 - weight) : value));
    }
  }
  return Float32Array.from(total, (sum) => sum / (down.length * across.length));
}

function placesOf(vectors) {
  let end = 0;
  return vectors.map(({ size, thumbnail }) => ({ begin: end, end: (end += size), thumbnail }));
}

// Return an image downscaled to about a tile.
function shrink(image, sides, multiple) {
  const factor = Math.min(sides.height / image.height, sides.width / image.width);
  const [height, width] = [image.height, image.width].map((side) => Math.max(multiple, Math.floor((factor * side) / multiple) * multiple));
  const source = new OffscreenCanvas(image.width, image.height);
  source.getContext("2d").putImageData(new ImageData(image.data, image.width, image.height), 0, 0);
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

// Return the thumbnail that the network makes of an image: box means, then bilinear samples.
function thumbnailOf(image, lengths, { factor, size }) {
  const [height, width] = lengths.map((length) => length / factor);
  const sums = new Float64Array(3 * height * width);
  const columns = Array.from({ length: lengths[1] }, (_, x) => 4 * reflect(x, image.width));
  for (let y = 0; y < lengths[0]; y += 1) {
    const row = 4 * image.width * reflect(y, image.height);
    const boxes = 3 * width * Math.floor(y / factor);
    for (let x = 0; x < lengths[1]; x += 1) {
      const [box, from] = [boxes + 3 * Math.floor(x / factor), row + columns[x]];
      for (let channel = 0; channel < 3; channel += 1) sums[box + channel] += image.data[from + channel];
    }
  }
  const box = (y, x, channel) => sums[3 * (y * width + x) + channel] / factor ** 2;
  const [tall, wide] = size;
  const small = new Float32Array(3 * tall * wide);
  for (let y = 0, at = 0; y < tall; y += 1) {
    const [top, bottom, down] = between(y, tall, height);
    for (let x = 0; x < wide; x += 1) {
      const [left, right, across] = between(x, wide, width);
      for (let channel = 0; channel < 3; channel += 1, at += 1) {
        const above = (1 - across) * box(top, left, channel) + across * box(top, right, channel);
        const below = (1 - across) * box(bottom, left, channel) + across * box(bottom, right, channel);
        small[at] = (1 - down) * above + down * below;
      }
    }
  }
  return small;
}

function between(index, count, length) {
  const place = Math.min(length - 1, Math.max(0, ((index + 0.5) * length) / count - 0.5));
  const below = Math.floor(place);
  return [below, Math.min(below + 1, length - 1), place - below];
}

// Return a frame of floats with this thumbnail.
function spread(small, { factor, size }) {
  const [tall, wide] = size;
  const frame = new Float32Array(3 * tall * wide * factor * factor);
  let at = 0;
  for (let y = 0; y < tall * factor; y += 1) {
    for (let x = 0; x < wide * factor; x += 1) {
      const from = 3 * (Math.floor(y / factor) * wide + Math.floor(x / factor));
      for (let channel = 0; channel < 3; channel += 1, at += 1) frame[at] = small[from + channel];
    }
  }
  return frame;
}

function roundUp(length, multiple) {
  return Math.ceil(length / multiple) * multiple;
}
