// Restoration in this browser: a thread with the network on the processor (WASM), one on the GPU
// (WebGPU) where there is one, and the choice between them by measurement.

const WHOLE_PIXELS = { small: 512 * 512, usual: 1920 * 1088 }; // in one run, by the device's memory
const ALL_CORES = 4; // of more than these half are used: the others are mostly their second threads
const MAX_THREADS = 8;
const GPU_TIMEOUT_MS = 30000; // to compile and to be measured
const LARGEST_DIFFERENCE = 2; // levels between two providers; more is a fault of a driver

// Resolve with what page.json says of the network.
export async function loadFacts() {
  const response = await fetch("page.json");
  if (!response.ok) throw new Error(`page.json cannot be loaded: ${response.status} ${response.statusText}`);
  return response.json();
}

// One thread with one session.
class Thread {
  #worker; #waiting = new Map(); #next = 0; #onProgress;

  constructor(onProgress) {
    this.#onProgress = onProgress;
    this.#worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.#worker.addEventListener("message", ({ data }) => this.#receive(data));
    this.#worker.addEventListener("error", (event) => this.#fail(new Error(event.message || "the thread cannot be started")));
  }

  send(type, values = {}, transfer = []) {
    const id = (this.#next += 1);
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ type, id, ...values }, transfer);
    });
  }

  close() {
    this.#worker.terminate();
    this.#fail(new Error("the thread was ended"));
  }

  #receive(message) {
    if (message.type === "progress") return this.#onProgress?.(message);
    const { resolve, reject } = this.#waiting.get(message.id) ?? {};
    this.#waiting.delete(message.id);
    if (message.type === "error") return reject?.(new Error(message.message));
    return resolve?.(message);
  }

  #fail(error) {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}

export class Engine {
  #facts; #threads = {}; #onChange; #onProgress;
  provider = null; // that restores: "wasm" or "webgpu"
  choice = "auto";
  cores = 1; // threads of WASM
  measured = {}; // ms of a small frame, by provider
  gpu = "none"; // "none", "measuring", "ready" or "rejected"
  reason = ""; // why the GPU is not used

  // `onChange()` is called when the provider or what is known of it changes, `onProgress({ done,
  // count })` with each tile of a large image.
  constructor(facts, { onChange, onProgress } = {}) {
    [this.#facts, this.#onChange, this.#onProgress] = [facts, onChange, onProgress];
  }

  // Resolve when images can be restored; the GPU is measured meanwhile.
  async open(choice = "auto") {
    this.choice = choice;
    // threads share memory, which browsers allow on pages with two headers only
    const wanted = self.crossOriginIsolated ? usableThreads() : 1;
    const { threads } = await this.#start("wasm", wanted);
    this.cores = threads;
    this.provider = "wasm";
    this.#onChange?.();
    this.ready = this.#tryGpu();
  }

  // Use "auto", "wasm" or "webgpu" from the next image on.
  choose(choice) {
    this.choice = choice;
    this.#decide();
  }

  // Resolve with { before, after, ms, tile, provider }; the bitmap is given away and comes back as `before`.
  async restore(bitmap, { isVideo = false } = {}) {
    const provider = this.provider;
    const result = await this.#threads[provider].send("restore", { bitmap, isVideo }, [bitmap]);
    return { ...result, provider };
  }

  // Begin a new scene: after a seek, or with another source.
  reset() {
    for (const thread of Object.values(this.#threads)) thread.send("reset").catch(() => {}); // it has ended
  }

  // Return the provider that restores, for people.
  get label() {
    if (this.provider === "webgpu") return "WebGPU";
    return `WASM, ${this.cores} thread${this.cores === 1 ? "" : "s"}`;
  }

  async #start(provider, threads) {
    const thread = new Thread(this.#onProgress);
    const memory = navigator.deviceMemory ?? 4; // GB; where a browser does not say
    const whole = memory < 4 ? WHOLE_PIXELS.small : WHOLE_PIXELS.usual;
    try {
      const opened = await thread.send("open", { facts: this.#facts, provider, threads, whole });
      this.#threads[provider] = thread;
      return opened;
    } catch (error) {
      thread.close();
      throw error;
    }
  }

  // Measure the GPU beside the processor, and compare what they give.
  async #tryGpu() {
    if (!this.#facts.webgpu) return this.#rejectGpu(`WebGPU lacks operators of this network: ${this.#facts.missing_operators.join(", ")}`);
    const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
    if (!adapter) return this.#rejectGpu("this browser offers no WebGPU here");
    this.gpu = "measuring";
    this.#onChange?.();
    try {
      await within(GPU_TIMEOUT_MS, this.#measureGpu());
    } catch (error) {
      this.#threads.webgpu?.close();
      delete this.#threads.webgpu;
      return this.#rejectGpu(error.message);
    }
    this.gpu = "ready";
    return this.#decide();
  }

  async #measureGpu() {
    await this.#start("webgpu", 1);
    const own = await this.#threads.webgpu.send("measure");
    const reference = await this.#threads.wasm.send("measure");
    this.measured = { webgpu: own.ms, wasm: reference.ms };
    const difference = own.pixels.reduce((most, value, at) => Math.max(most, Math.abs(value - reference.pixels[at])), 0);
    if (difference > LARGEST_DIFFERENCE) throw new Error(`WebGPU gives other values here, by up to ${difference} levels`);
  }

  #rejectGpu(reason) {
    this.gpu = "rejected";
    this.reason = reason;
    this.#decide();
  }

  #decide() {
    const faster = this.measured.webgpu < this.measured.wasm ? "webgpu" : "wasm";
    const wanted = this.choice === "auto" ? faster : this.choice;
    this.provider = wanted === "webgpu" && this.gpu === "ready" ? "webgpu" : "wasm";
    this.#onChange?.();
  }
}

function usableThreads() {
  const cores = navigator.hardwareConcurrency || 1;
  return cores <= ALL_CORES ? cores : Math.min(MAX_THREADS, Math.max(ALL_CORES, Math.floor(cores / 2)));
}

function within(ms, promise) {
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error(`WebGPU was not ready within ${ms / 1000} s`)), ms));
  return Promise.race([promise, late]);
}
