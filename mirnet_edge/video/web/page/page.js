// The page: its session with the server, the frame view, the statistics and the controls.

import { Chart } from "./chart.js";
import { JpegStream, WebRtcStream } from "./streams.js";
import { FrameView, STRIP_HEIGHT } from "./view.js";

const RECONNECT_MS = 1500;
const STALLED_MS = 2000; // without a new frame, beside the time that restoring two takes
const TOAST_MS = 8000;
const CHOICE_MS = 1500; // a control shows what was chosen for this long, until the server has followed
const SEEK_MS = 120; // between two requests while the position is dragged
const CONTROLS = ["restoring", "frozen", "snapshot", "configuration", "zoom", "strength", "pause", "seek", "loop", "replay"];
const PLAYBACK_ROOM = 54; // pixels of the playback controls
const element = (id) => document.getElementById(id);

const view = new FrameView(element("stage"), element("scroller"), element("frame-view"), element("split"));
const charts = { fps: new Chart(element("fps-chart")), age: new Chart(element("age-chart")) };
const transport = new URLSearchParams(location.search).get("transport"); // "mjpeg" turns WebRTC off

let socket = null;
let stream = null;
let session = null; // the server's "session" message
let local = null; // restores in this browser, where the server does not
let camera = null;
let pendingOffer = null; // resolves with the answer (SDP)
let options = ""; // the configurations in the menu
let status = null; // the newest "status" message
let pendingStatus = null; // one that is not shown yet
let advanced = 0; // when a status last counted a new frame, in ms of performance.now()
let duration = 0; // of the file, in seconds
let dragged = { seek: false, strength: false }; // sliders that are being moved
let lastSeek = 0;
const choices = new Map(); // what was chosen with a control, and until when that is shown

// ---- the session -------------------------------------------------------------------------------

function connect() {
  const address = new URL("session", location.href);
  address.protocol = address.protocol.replace("http", "ws");
  socket = new WebSocket(address);
  socket.addEventListener("message", (event) => receive(JSON.parse(event.data)));
  socket.addEventListener("close", () => {
    stop();
    status = null;
    showState("no connection", "lost");
    for (const id of CONTROLS) element(id).disabled = true;
    setTimeout(connect, RECONNECT_MS);
  });
}

function send(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function sendOffer(message) {
  if (message.type !== "offer") return send(message);
  return new Promise((resolve, reject) => {
    pendingOffer = { resolve, reject };
    send(message);
  });
}

function answerOffer(settle) {
  const offer = pendingOffer;
  pendingOffer = null;
  if (offer) settle(offer);
}

function receive(message) {
  if (message.type === "session") start(message);
  else if (message.type === "answer") answerOffer((offer) => offer.resolve(message.sdp));
  else if (message.type === "status") showSoon(message);
  else if (message.type === "disconnected") fallBack(message.reason);
  else if (message.type === "saved") showToast(`Saved: ${message.path}`);
  else if (message.type === "error") {
    if (pendingOffer) answerOffer((offer) => offer.reject(new Error(message.message)));
    else showToast(message.message, "bad");
  }
}

// Show the newest status once those that wait have been read: a busy browser gets many at once.
function showSoon(message) {
  if (!pendingStatus) {
    setTimeout(() => {
      const newest = pendingStatus;
      pendingStatus = null;
      if (socket?.readyState === WebSocket.OPEN) showStatus(newest);
    });
  }
  pendingStatus = message;
}

// ---- the stream --------------------------------------------------------------------------------

async function start(message) {
  session = message;
  showNote("");
  if (session.restores && !local && !(await openLocal())) return;
  if (session.camera && !camera) offerCamera();
  else watch();
}

// Load the network into this browser; resolve with whether that worked.
async function openLocal() {
  showCover("Loading the network");
  try {
    const { LocalRestoration } = await import("./local.js");
    const opened = new LocalRestoration(view, { onChange: () => status && showStatus(status) });
    await opened.open();
    local = opened;
  } catch (error) {
    showState("not ready", "lost");
    showCover(`The network could not be started in this browser: ${error.message}`);
    return false;
  }
  return true;
}

function offerCamera() {
  showState("ready", "");
  const secure = Boolean(navigator.mediaDevices);
  element("camera").hidden = !secure;
  showCover(
    secure
      ? "Your camera's video goes to this server, is restored there, and comes back to you alone."
      : `A browser gives its camera only to https and to the server's own machine. ${
          session.https ? `For https, there: ${session.https}` : "Open the page as http://127.0.0.1, for instance through an SSH tunnel."
        }`,
  );
}

async function useCamera() {
  try {
    camera = await navigator.mediaDevices.getUserMedia({
      video: { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user" },
    });
  } catch (error) {
    return showCover(`The browser did not give its camera: ${error.message}`);
  }
  element("camera").hidden = true;
  return watch();
}

async function watch() {
  stop();
  showCover("Waiting for the first frame");
  showState("connecting", "");
  if (transport === "mjpeg" && !camera) return watchJpeg();
  const own = new WebRtcStream(element("received"), { send: sendOffer, onFrame, camera });
  stream = own;
  try {
    await own.open();
    if (stream === own) showTransport("WebRTC");
  } catch (error) {
    if (stream === own) fallBack(error.message);
  }
}

function fallBack(reason) {
  stop();
  send({ type: "disconnect" });
  if (!camera) return watchJpeg();
  // a camera cannot be sent in any other way
  for (const track of camera.getTracks()) track.stop();
  camera = null;
  showNote(reason);
  return offerCamera();
}

async function watchJpeg() {
  const own = new JpegStream("stream.mjpg", {
    onFrame: (...args) => {
      onFrame(...args);
      if (element("frame-view").dataset.transport !== "MJPEG") showTransport("MJPEG");
    },
  });
  stream = own;
  try {
    await own.open();
  } catch (error) {
    if (stream === own) showNote(error.message);
  }
  if (stream === own && socket?.readyState === WebSocket.OPEN) setTimeout(() => stream === own && watch(), RECONNECT_MS);
}

function onFrame(source, width, height) {
  if (local) return showLocally(source, width, height);
  view.draw(source, width, height);
  element("cover").hidden = true;
}

async function showLocally(source, width, height) {
  try {
    const age = status?.server?.age_ms ?? 0;
    if (await local.show(source, width, height - STRIP_HEIGHT, age)) element("cover").hidden = true;
  } catch (error) {
    showNote(`a frame was not restored: ${error.message}`);
  }
}

function showTransport(name) {
  element("frame-view").dataset.transport = name;
  showBadge();
}

function stop() {
  stream?.close();
  stream = null;
  delete element("frame-view").dataset.transport;
  showState("connecting", "");
}

// ---- the badge ---------------------------------------------------------------------------------

// Show what the frame in view is. It is called live only while new frames are counted and drawn.
function showBadge() {
  const transport = element("frame-view").dataset.transport;
  if (socket?.readyState !== WebSocket.OPEN || !status || !transport) return;
  const limit = STALLED_MS + 2 * (local?.ms ?? status.restore_ms);
  const since = performance.now() - Math.min(advanced, document.hidden ? Infinity : view.drawn);
  const state = ["live", "playing"].includes(status.state) && since > limit ? "stalled" : status.state;
  const recording = status.recording ? " · recording" : "";
  const kinds = { live: "live", playing: "live", stalled: "lost" };
  const text = { live: `live · ${transport}`, playing: `playing · ${transport}`, stalled: "no new frames" }[state] ?? state;
  showState(text + recording, kinds[state] ?? "still");
  element("replay").hidden = state !== "ended" || choices.has("pause");
}

// ---- statistics and controls -------------------------------------------------------------------

// Send what was chosen with a control, and show it at once: a slow server answers later.
function choose(id, value, message) {
  choices.set(id, { value, until: performance.now() + CHOICE_MS });
  send(message);
  if (status) showStatus(status);
}

// Return what a control shows: the choice while it is new, then what the server says.
function chosen(id, value) {
  const choice = choices.get(id);
  if (choice && choice.value !== value && performance.now() < choice.until) return choice.value;
  choices.delete(id);
  return value;
}

function showStatus(message) {
  const count = (number) => number.toLocaleString("en");
  const time = (ms, digits = 0) => (ms < 1e4 ? `${ms.toFixed(digits)} ms` : `${(ms / 1e3).toFixed(1)} s`);
  const isNew = message !== status;
  if (local) message = locally(message);
  if (!status || message.shown !== status.shown) advanced = performance.now();
  status = message;
  const moving = ["live", "playing"].includes(status.state);
  element("fps").textContent = status.fps.toFixed(1);
  element("age").textContent = moving ? time(status.age_ms) : "-";
  element("p95").textContent = time(status.age_p95_ms);
  element("restore-ms").textContent = time(status.restore_ms, 1);
  element("shown").textContent = count(status.shown);
  element("dropped").textContent = count(status.dropped);
  element("size").textContent = `${status.width}×${status.height}`;
  element("viewers").textContent = count(status.viewers);
  element("runs-on").textContent = status.placement || status.configuration;
  if (moving && isNew) {
    charts.fps.add(status.fps);
    charts.age.add(status.age_ms);
  }
  setPressed("restoring", chosen("restoring", status.restoring));
  setPressed("frozen", chosen("frozen", status.frozen));
  setPressed("zoom", view.zoomed);
  element("snapshot").disabled = false;
  element("strength").disabled = !status.restoring;
  if (!dragged.strength) showStrength(Math.round(100 * status.strength));
  element("after-tag").textContent = status.restored ? "after" : "not restored";
  element("frame-view").setAttribute(
    "aria-label",
    status.restored ? "The frame: before on the left, after on the right" : "The frame, not restored",
  );
  showPlayback(status);
  showConfigurations(status);
  showNote(status.note || (status.failed ? `${count(status.failed)} frames could not be restored and are shown unrestored` : ""));
  showBadge();
}

// Return the server's status with what this browser restores in place of what the server does.
function locally(message) {
  const { engine, on, ms, dropped, fps } = local;
  const server = message.server ?? message;
  const { age, p95 } = local.ages;
  return {
    ...server, server, age_ms: age, age_p95_ms: p95,
    restoring: on, restored: on, strength: view.strength, restore_ms: ms, fps, dropped: server.dropped + dropped,
    configuration: engine.choice, placement: engine.label,
    configurations: ["auto", "wasm", ...(engine.gpu === "ready" ? ["webgpu"] : [])],
  };
}

function showPlayback({ playback, state, frozen }) {
  if (element("player").hidden === Boolean(playback)) {
    element("player").hidden = !playback;
    view.reserved += playback ? PLAYBACK_ROOM : -PLAYBACK_ROOM;
    view.fit();
  }
  // a file is paused, a camera frozen
  element("frozen").hidden = Boolean(playback) && !frozen;
  if (!playback) return;
  duration = playback.duration_s ?? 0;
  for (const id of ["pause", "loop", "replay"]) element(id).disabled = false;
  element("seek").disabled = !duration;
  element("loop").setAttribute("aria-pressed", chosen("loop", playback.loop));
  const server = { paused: "Play", ended: "Replay" }[state] ?? "Pause";
  const action = chosen("pause", server);
  if (element("pause").getAttribute("aria-label") !== action) {
    element("pause").setAttribute("aria-label", action);
    element("pause").classList.toggle("stopped", action !== "Pause");
  }
  // the last frame begins before the end
  if (!dragged.seek) showPosition(state === "ended" && duration ? duration : playback.position_s);
}

function showPosition(seconds) {
  const slider = element("seek");
  slider.value = duration ? (slider.max * seconds) / duration : 0;
  const text = duration ? `${clock(seconds)} / ${clock(duration)}` : clock(seconds);
  element("time").textContent = text;
  slider.setAttribute("aria-valuetext", text.replace("/", "of"));
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (number) => String(number).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

function seek({ type, target }) {
  const seconds = (duration * target.value) / target.max;
  dragged.seek = type === "input";
  showPosition(seconds);
  const now = performance.now();
  if (type === "input" && now - lastSeek < SEEK_MS) return;
  lastSeek = now;
  send({ type: "seek", position_s: seconds });
}

function play() {
  const action = element("pause").getAttribute("aria-label");
  if (action === "Replay") return replay();
  const on = action === "Pause";
  return choose("pause", on ? "Play" : "Pause", { type: "paused", on });
}

function replay() {
  element("pause").focus({ focusVisible: false }); // the button in the frame disappears
  send({ type: "seek", position_s: 0 });
  choose("pause", "Pause", { type: "paused", on: false });
}

function zoom() {
  view.zoom(!view.zoomed);
  setPressed("zoom", view.zoomed);
  if (view.zoomed && status?.width > view.width) {
    showToast(`Frames of ${status.width} pixels are sent ${view.width} wide: 1:1 shows those. A snapshot has all pixels.`);
  }
}

function showStrength(percent) {
  element("strength").value = percent;
  element("strength").setAttribute("aria-valuetext", `${percent} percent`);
  element("strength-text").textContent = `${percent} %`;
}

function setStrength({ type, target }) {
  dragged.strength = type === "input";
  showStrength(Number(target.value));
  if (!local) return send({ type: "strength", strength: target.value / 100 });
  view.strength = target.value / 100;
  return view.repaint();
}

function showConfigurations({ configuration, configurations }) {
  const select = element("configuration");
  const names = configurations.includes(configuration) || !configuration ? configurations : [configuration, ...configurations];
  if (options !== names.join()) {
    options = names.join();
    select.replaceChildren(...names.map((name) => new Option(titleOf(name), name)));
  }
  select.disabled = configurations.length < 2;
  if (document.activeElement !== select) select.value = configuration;
}

function titleOf(name) {
  const titles = { auto: "this browser: the faster", wasm: "this browser: WASM", webgpu: "this browser: WebGPU" };
  return local ? titles[name] : name.replace(":", " · ");
}

async function takeSnapshot() {
  if (local) return download(await view.compose().convertToBlob({ type: "image/png" }), `mirnet-${status.index}.png`);
  const index = view.index;
  if (session?.saves) return send({ type: "snapshot", index });
  const address = new URL("snapshot.png", location.href);
  if (index !== null) address.searchParams.set("index", index);
  if (session?.camera) address.searchParams.set("key", session.key);
  const response = await fetch(address);
  if (!response.ok) return showToast(await response.text(), "bad");
  const name = /filename="(.+)"/.exec(response.headers.get("Content-Disposition"))?.[1] ?? "mirnet.png";
  return download(await response.blob(), name);
}

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  return showToast(`Saved by this browser among its downloads: ${link.download}`);
}

function showState(text, kind) {
  if (element("state").textContent === text) return; // it is read out at each change
  element("state").textContent = text;
  element("state").className = `pill ${kind}`;
}

function showCover(text) {
  element("cover").hidden = false;
  element("cover-text").textContent = text;
}

function showToast(text, kind = "") {
  const toast = element("toast");
  toast.textContent = text;
  toast.className = `toast ${kind}`;
  toast.hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => (toast.hidden = true), TOAST_MS);
}

function showNote(text) {
  if (element("note").textContent !== text) element("note").textContent = text;
  element("note").hidden = !text;
}

function setPressed(id, on) {
  element(id).disabled = false;
  element(id).setAttribute("aria-pressed", on);
}

const isPressed = (id) => element(id).getAttribute("aria-pressed") === "true";
for (const type of ["restoring", "frozen", "loop"]) {
  element(type).addEventListener("click", () => {
    const on = !isPressed(type);
    if (!local || type !== "restoring") return choose(type, on, { type, on });
    local.on = on;
    return showStatus(status);
  });
}
element("configuration").addEventListener("change", ({ target }) => {
  if (local) local.engine.choose(target.value);
  else send({ type: "configuration", configuration: target.value });
  target.blur();
});
element("snapshot").addEventListener("click", takeSnapshot);
element("zoom").addEventListener("click", zoom);
element("pause").addEventListener("click", play);
element("replay").addEventListener("click", replay);
for (const type of ["input", "change"]) {
  element("seek").addEventListener(type, seek);
  element("strength").addEventListener(type, setStrength);
}
setInterval(showBadge, 500);
element("camera").addEventListener("click", useCamera);
connect();
