// The page: a photo, a clip or the camera, restored in this browser and shown before and after.

import { Engine, loadFacts } from "./engine.js";
import { FrameView } from "./view.js";

const TOAST_MS = 8000;
const LARGEST_FRAME = 1280 * 720; // pixels of a clip's or camera's frame; photos keep all of theirs
const RATE_FRAMES = 12; // over which frames per second are measured
const TASKS = {
  "low-light": "low light", denoise: "noise", "super-resolution": "twice the size", "old-photo": "old photos",
};
const element = (id) => document.getElementById(id);

const view = new FrameView(element("stage"), element("scroller"), element("frame-view"), element("split"));
const video = element("video");
let facts = null;
let engine = null;
let camera = null; // its MediaStream
let shown = null; // { name, kind, width, height, tile, reduced } of what is in view
let run = 0; // the number of what is restored; a newer one ends an older loop
let dropped = 0;
let seeking = false;
const times = []; // of the last frames, in ms of performance.now()

// ---- start ---------------------------------------------------------------------------------------

async function start() {
  try {
    facts = await loadFacts();
    element("task").textContent = TASKS[facts.task] ?? facts.task;
    element("sources").textContent = `Network: ${facts.source}, ${facts.precision}. Runs in ${facts.runtime} (licenses beside it).`;
    engine = new Engine(facts, { onChange: showEngine, onProgress: showProgress });
    await engine.open();
  } catch (error) {
    showState("not ready", "lost");
    return showCover("The network could not be started", error.message);
  }
  for (const id of ["open", "camera", "provider"]) element(id).disabled = false;
  element("choices").hidden = false;
  element("cover-camera").hidden = !navigator.mediaDevices;
  element("camera").hidden = !navigator.mediaDevices;
  showState("ready", "");
  showCover("Drop a photo or a clip here", "It stays in this browser.");
  if (!self.crossOriginIsolated) {
    element("threads").textContent =
      "One thread only, which is slower: the server of this page sends no COOP and COEP headers, as `mirnet web` does.";
    element("threads").hidden = false;
  }
}

function showEngine() {
  element("runs-on").textContent = engine.label;
  const gpu = element("provider").querySelector("[value=webgpu]");
  gpu.disabled = engine.gpu !== "ready";
  const { webgpu, wasm } = engine.measured;
  const speed = element("speed");
  const compared = webgpu && wasm ? `Measured here on a small frame: WebGPU ${format(webgpu)}, WASM ${format(wasm)}.` : "";
  const text = { measuring: "Measuring WebGPU beside WASM.", rejected: `WebGPU is not used: ${engine.reason}.` }[engine.gpu];
  speed.textContent = [compared, text].filter(Boolean).join(" ");
  speed.hidden = !speed.textContent;
  if (shown?.kind === "photo" && shown.provider !== engine.provider) restorePhoto(shown.name, shown.file);
}

// ---- what is restored ----------------------------------------------------------------------------

async function openFile(file) {
  if (!file || !engine?.provider) return;
  if (file.type.startsWith("video/")) return openClip(file);
  await restorePhoto(file.name, file);
}

async function restorePhoto(name, file) {
  stop();
  const own = (run += 1);
  showState("restoring", "still");
  showNote("");
  showRemark("");
  try {
    const bitmap = await createImageBitmap(file);
    const { width, height } = bitmap;
    const result = await engine.restore(bitmap);
    if (own !== run) return;
    shown = { name, file, kind: "photo", width, height, ...result };
    showPair(result);
    element("restore-ms").textContent = format(result.ms);
    for (const id of ["fps", "dropped"]) element(id).textContent = "-";
    showState("restored", "still");
    if (result.tile) showRemark(`This photo is too large for one run here: it was restored in tiles of ${result.tile} pixels, with the same decisions for all of them.`);
  } catch (error) {
    if (own !== run) return;
    showState("not restored", "lost");
    showNote(`${name} could not be restored: ${describe(error)}`);
  } finally {
    element("progress").hidden = true;
  }
}

function openClip(file) {
  stop();
  video.srcObject = null;
  video.src = URL.createObjectURL(file);
  video.loop = true;
  element("player").hidden = false;
  view.reserved = 384;
  view.fit();
  return play(file.name, "clip");
}

async function openCamera() {
  if (camera) return stop();
  stop();
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, height: { ideal: 480 } } });
  } catch (error) {
    return showNote(`The browser did not give its camera: ${error.message}`);
  }
  camera = stream;
  video.removeAttribute("src");
  video.srcObject = camera;
  element("camera").setAttribute("aria-pressed", true);
  return play("camera", "camera");
}

// Restore the newest frame of the video again and again; those that come meanwhile are dropped.
async function play(name, kind) {
  const own = (run += 1);
  showNote("");
  showRemark("");
  showState("starting", "");
  engine.reset();
  [dropped, times.length] = [0, 0];
  try {
    await started(video);
    await video.play();
    let last = null;
    while (own === run) {
      const frame = await nextFrame(video);
      if (own !== run) return;
      if (last !== null && frame > last + 1) dropped += frame - last - 1;
      last = frame;
      const size = reducedSize(video.videoWidth, video.videoHeight);
      const resize = { resizeWidth: size.width, resizeHeight: size.height, resizeQuality: "medium" };
      const bitmap = await createImageBitmap(video, size.width === video.videoWidth ? {} : resize);
      const result = await engine.restore(bitmap, { isVideo: true });
      if (own !== run) return;
      shown = { name, kind, ...size, ...result };
      showPair(result);
      showRates(result);
    }
  } catch (error) {
    if (own !== run) return;
    stop();
    showState("not restored", "lost");
    showNote(`${name} could not be restored: ${describe(error)}`);
  }
}

function started(element) {
  return new Promise((resolve, reject) => {
    if (element.readyState >= 2) return resolve();
    element.addEventListener("loadeddata", resolve, { once: true });
    element.addEventListener("error", () => reject(new Error("this browser cannot decode it")), { once: true });
  });
}

// Resolve with the number of the next frame: of the video's, where the browser counts them.
function nextFrame(element) {
  return new Promise((resolve) => {
    if (element.requestVideoFrameCallback) element.requestVideoFrameCallback((_, { presentedFrames }) => resolve(presentedFrames));
    else requestAnimationFrame(() => resolve(null));
  });
}

function reducedSize(width, height) {
  const factor = Math.min(1, Math.sqrt(LARGEST_FRAME / (width * height)));
  const [wide, tall] = [width, height].map((side) => Math.max(1, Math.round(factor * side)));
  return { width: wide, height: tall, full: [width, height] };
}

function stop() {
  run += 1;
  for (const track of camera?.getTracks() ?? []) track.stop();
  camera = null;
  element("camera").setAttribute("aria-pressed", false);
  video.pause();
  if (video.src) URL.revokeObjectURL(video.src);
  video.removeAttribute("src");
  video.srcObject = null;
  if (shown && shown.kind !== "photo") showState("stopped", "still");
  element("player").hidden = true;
  view.reserved = 330;
  view.fit();
}

// ---- what is shown -------------------------------------------------------------------------------

function showPair({ before, after, provider }) {
  view.drawPair(before, after);
  element("frame-view").dataset.provider = provider;
  element("stage").classList.remove("empty");
  element("cover").hidden = true;
  for (const id of ["zoom", "save", "strength"]) element(id).disabled = false;
  element("size").textContent = facts.scale === 1 ? `${after.width}×${after.height}` : `${before.width}×${before.height} → ${after.width}×${after.height}`;
}

function showRates({ ms }) {
  times.push(performance.now());
  if (times.length > RATE_FRAMES) times.shift();
  const seconds = (times.at(-1) - times[0]) / 1000;
  element("fps").textContent = seconds ? ((times.length - 1) / seconds).toFixed(1) : "-";
  element("restore-ms").textContent = format(ms);
  element("dropped").textContent = dropped.toLocaleString("en");
  const paused = shown.kind === "clip" && video.paused;
  if (!paused) showState(shown.kind === "camera" ? "live" : "playing", "live");
  const [width, height] = shown.full;
  if (width !== shown.width) showRemark(`Frames of ${width}×${height} are restored at ${shown.width}×${shown.height}, to keep up; photos keep all their pixels.`);
  if (!seeking) showPosition();
}

function showPosition() {
  const { currentTime, duration } = video;
  if (!Number.isFinite(duration)) return;
  element("seek").value = (element("seek").max * currentTime) / duration;
  const text = `${clock(currentTime)} / ${clock(duration)}`;
  element("time").textContent = text;
  element("seek").setAttribute("aria-valuetext", text.replace("/", "of"));
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

function format(ms) {
  return ms < 1e4 ? `${ms.toFixed(ms < 100 ? 1 : 0)} ms` : `${(ms / 1e3).toFixed(1)} s`;
}

function describe(error) {
  return error.name === "InvalidStateError" ? "this browser cannot read it as an image" : error.message;
}

function showProgress({ done, count }) {
  element("progress").hidden = done === count;
  element("progress").value = done / count;
}

function showState(text, kind) {
  if (element("state").textContent === text) return; // it is read out at each change
  element("state").textContent = text;
  element("state").className = `pill ${kind}`;
}

function showCover(title, text) {
  element("cover").hidden = false;
  element("cover-title").hidden = false;
  element("cover-title").textContent = title;
  element("cover-text").textContent = text;
}

function showNote(text) {
  if (element("note").textContent !== text) element("note").textContent = text;
  element("note").hidden = !text;
}

// What is worth knowing, and no fault.
function showRemark(text) {
  if (element("remark").textContent !== text) element("remark").textContent = text;
  element("remark").hidden = !text;
}

function showToast(text) {
  const toast = element("toast");
  toast.textContent = text;
  toast.hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => (toast.hidden = true), TOAST_MS);
}

// ---- controls ------------------------------------------------------------------------------------

async function save() {
  const blob = await view.compose().convertToBlob({ type: "image/png" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${shown.name.replace(/\.[^.]+$/, "")}.restored.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  showToast(`Saved by this browser among its downloads: ${link.download}`);
}

function setStrength() {
  const percent = Number(element("strength").value);
  element("strength").setAttribute("aria-valuetext", `${percent} percent`);
  element("strength-text").textContent = `${percent} %`;
  view.strength = percent / 100;
  view.repaint();
}

function pause() {
  const button = element("pause");
  if (video.paused) video.play();
  else video.pause();
  button.classList.toggle("stopped", video.paused);
  button.setAttribute("aria-label", video.paused ? "Play" : "Pause");
  showState(video.paused ? "paused" : "playing", video.paused ? "still" : "live");
}

function seek({ type, target }) {
  seeking = type === "input";
  video.currentTime = (video.duration * target.value) / target.max;
  engine.reset();
}

function chooseFile() {
  element("file").click();
}

for (const id of ["choose", "open"]) element(id).addEventListener("click", chooseFile);
for (const id of ["camera", "cover-camera"]) element(id).addEventListener("click", openCamera);
element("file").addEventListener("change", ({ target }) => {
  openFile(target.files[0]);
  target.value = "";
});
element("save").addEventListener("click", save);
element("strength").addEventListener("input", setStrength);
element("pause").addEventListener("click", pause);
for (const type of ["input", "change"]) element("seek").addEventListener(type, seek);
element("zoom").addEventListener("click", () => {
  view.zoom(!view.zoomed);
  element("zoom").setAttribute("aria-pressed", view.zoomed);
});
element("provider").addEventListener("change", ({ target }) => {
  engine.choose(target.value); // a photo in view is restored again, by showEngine
});

// a file may be dropped anywhere on the page
addEventListener("dragover", (event) => {
  event.preventDefault();
  element("stage").classList.add("dropping");
});
for (const type of ["dragleave", "drop"]) addEventListener(type, () => element("stage").classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  openFile(event.dataTransfer.files[0]);
});

element("stage").classList.add("empty");
start();
