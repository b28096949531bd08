// A thread that holds one session of ONNX Runtime Web, on one provider. Messages in: "open", then
// "restore" and "measure"; each is answered by a message of the same id.

import { Network } from "./network.js";
import { Smoother } from "./smoothing.js";
import { restoreInTiles } from "./tiles.js";

const LIBRARIES = {
  wasm: ["./runtime/ort.wasm.min.mjs", "./runtime/ort-wasm-simd-threaded.wasm.gz"],
  webgpu: ["./runtime/ort.webgpu.min.mjs", "./runtime/ort-wasm-simd-threaded.asyncify.wasm.gz"],
};
const SMALLEST_TILE = 256;
const KEPT_SESSIONS = 2; // on WebGPU, where each size has its own
const MEASURED = { width: 256, height: 192, runs: 3 };

let ort, facts, provider, model, threads, smoother, canvas;
let whole = 0; // pixels up to which an image is restored in one run
const sessions = new Map();

async function open(message) {
  ({ facts, provider, threads, whole } = message);
  const [library, binary] = LIBRARIES[provider];
  ort = await import(library);
  ort.env.wasm.numThreads = threads;
  [ort.env.wasm.wasmBinary, model] = await Promise.all([
    load(binary).then(unpack),
    load(facts.network.file).then((response) => response.arrayBuffer()),
  ]);
  await checkHash(model);
  smoother = new Smoother(facts.smoothing);
  canvas = new OffscreenCanvas(1, 1).getContext("2d", { alpha: false, willReadFrequently: true });
  if (provider === "wasm") await networkFor(0, 0);
  else await networkFor(MEASURED.height, MEASURED.width);
  return { provider, threads: provider === "wasm" ? ort.env.wasm.numThreads : 1 };
}

async function load(address) {
  const response = await fetch(new URL(address, import.meta.url));
  if (!response.ok) throw new Error(`${address} cannot be loaded: ${response.status} ${response.statusText}`);
  return response;
}

// Resolve with a file's content; some servers have taken the gzip off already.
async function unpack(response) {
  const packed = await response.arrayBuffer();
  const [first, second] = new Uint8Array(packed, 0, 2);
  if (first !== 0x1f || second !== 0x8b) return packed;
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

// Browsers hash on pages of https and of this machine only.
async function checkHash(content) {
  if (!crypto.subtle) return;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== facts.network.sha256) {
    throw new Error(`${facts.network.file} is not the network that page.json names; write the page again`);
  }
}

// Resolve with the network for frames of a size; on WebGPU it is made for that size, so that no
// node of it is left to the processor.
async function networkFor(height, width) {
  const key = provider === "webgpu" ? `${height}x${width}` : "any";
  const known = sessions.get(key);
  if (known) return known.network;
  while (provider === "webgpu" && sessions.size >= KEPT_SESSIONS) {
    const [oldest, { session }] = sessions.entries().next().value;
    sessions.delete(oldest);
    await session.release();
  }
  const options = { executionProviders: [provider], logSeverityLevel: 3 };
  if (provider === "webgpu") {
    options.freeDimensionOverrides = dimensions(height, width);
    options.extra = { session: { disable_cpu_ep_fallback: "1" } };
  }
  // the library may take over the buffer it is given
  const session = await ort.InferenceSession.create(new Uint8Array(model.slice(0)), options);
  const network = new Network(ort, session, facts);
  sessions.set(key, { session, network });
  return network;
}

function dimensions(height, width) {
  const [count, tall, wide] = facts.dimensions;
  const values = [[count, 1], [tall, height], [wide, width]];
  return Object.fromEntries(values.filter(([name]) => typeof name === "string"));
}

async function networkOf(image) {
  const { multiple, size } = facts;
  const [height, width] = size ?? [image.height, image.width].map((side) => Math.ceil(side / multiple) * multiple);
  return networkFor(height, width);
}

async function restore({ bitmap, isVideo }) {
  const begin = performance.now();
  const image = pixelsOf(bitmap);
  const { restored, tile } = await restoreImage(image, isVideo ? bitmap : null);
  const after = await createImageBitmap(new ImageData(restored.data, restored.width, restored.height));
  return { before: bitmap, after, tile, ms: performance.now() - begin, transfer: [bitmap, after] };
}

function pixelsOf(bitmap) {
  [canvas.canvas.width, canvas.canvas.height] = [bitmap.width, bitmap.height];
  canvas.drawImage(bitmap, 0, 0);
  return canvas.getImageData(0, 0, bitmap.width, bitmap.height);
}

// Resolve with the restored image and the side of its tiles, null where it was one run. Where the
// memory does not suffice, smaller tiles are tried.
async function restoreImage(image, frame) {
  const { size } = facts;
  const fits = size ? image.height <= size[0] && image.width <= size[1] : image.width * image.height <= whole;
  let error = null;
  if (fits) {
    try {
      return { restored: await restoreWhole(image, frame), tile: null };
    } catch (failure) {
      if (size || !isMemory(failure)) throw failure;
      error = failure;
    }
  }
  let side = Math.floor(Math.sqrt(whole) / facts.multiple) * facts.multiple;
  if (error) side = Math.ceil(side / 2 / facts.multiple) * facts.multiple;
  for (; size || side >= SMALLEST_TILE; side = Math.floor(side / 2 / facts.multiple) * facts.multiple) {
    const tile = size ?? [side, side];
    try {
      const network = await networkFor(Math.min(tile[0], padded(image.height)), Math.min(tile[1], padded(image.width)));
      const onTile = (done, count) => postMessage({ type: "progress", done, count });
      return { restored: await restoreInTiles(network, facts, image, tile, onTile), tile: side };
    } catch (failure) {
      if (size || !isMemory(failure)) throw failure;
      error = failure;
    }
  }
  throw error ?? new Error("this device has too little memory for the network");
}

function padded(length) {
  return Math.ceil(length / facts.multiple) * facts.multiple;
}

async function restoreWhole(image, frame) {
  const network = await networkOf(image);
  const part = { x: 0, y: 0, width: image.width, height: image.height };
  if (!frame || !network.contextLength) return (await network.restore(image, part)).restored;
  const { context, weight, keep } = smoother.begin(frame);
  const { restored, used } = await network.restore(image, part, context, weight);
  keep(used);
  return restored;
}

// WebAssembly's allocator, JavaScript's and WebGPU's each say it in their own way.
function isMemory(error) {
  return error instanceof RangeError || /bad_alloc|out of memory|allocat|memory/i.test(String(error?.message ?? error));
}

// Resolve with the shortest time of a small frame, in ms, and what it was restored to.
async function measure() {
  const image = testFrame(MEASURED.width, MEASURED.height);
  const network = await networkOf(image);
  const part = { x: 0, y: 0, width: image.width, height: image.height };
  const { restored } = await network.restore(image, part); // the first run compiles
  let ms = Infinity;
  for (let run = 0; run < MEASURED.runs; run += 1) {
    const begin = performance.now();
    await network.restore(image, part);
    ms = Math.min(ms, performance.now() - begin);
  }
  return { ms, pixels: restored.data, ...MEASURED };
}

// Return a dark frame with gradients, edges and noise, always the same.
function testFrame(width, height) {
  const image = { data: new Uint8ClampedArray(4 * width * height).fill(255), width, height };
  let seed = 1;
  for (let at = 0, y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1, at += 4) {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      const edge = (x >> 5) % 2 === (y >> 5) % 2 ? 40 : 0;
      image.data[at] = (60 * x) / width + edge + (seed >>> 28);
      image.data[at + 1] = (60 * y) / height + edge + (seed >>> 28);
      image.data[at + 2] = 30 + edge / 2 + (seed >>> 28);
    }
  }
  return image;
}

const actions = { open, restore, measure, reset: async () => smoother.reset() ?? {} };
let last = Promise.resolve(); // one run at a time

addEventListener("message", ({ data }) => {
  last = last.then(async () => {
    try {
      const { transfer = [], ...result } = await actions[data.type](data);
      postMessage({ type: data.type, id: data.id, ...result }, transfer);
    } catch (error) {
      postMessage({ type: "error", id: data.id, message: String(error?.message ?? error) });
    }
  });
});
