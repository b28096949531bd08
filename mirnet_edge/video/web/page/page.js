// The page: its session with the server, the frame view, the statistics and the controls.

import { Chart } from "./chart.js";
import { JpegStream, WebRtcStream } from "./streams.js";
import { FrameView } from "./view.js";

const RECONNECT_MS = 1500;
const element = (id) => document.getElementById(id);

const view = new FrameView(element("stage"), element("frame-view"), element("split"));
const charts = { fps: new Chart(element("fps-chart")), age: new Chart(element("age-chart")) };
const transport = new URLSearchParams(location.search).get("transport"); // "mjpeg" turns WebRTC off

let socket = null;
let stream = null;
let session = null; // the server's "session" message
let camera = null;
let pendingOffer = null; // resolves with the answer (SDP)
let options = ""; // the configurations in the menu

// ---- the session -------------------------------------------------------------------------------

function connect() {
  const address = new URL("session", location.href);
  address.protocol = address.protocol.replace("http", "ws");
  socket = new WebSocket(address);
  socket.addEventListener("message", (event) => receive(JSON.parse(event.data)));
  socket.addEventListener("close", () => {
    stop();
    showState("no connection", "lost");
    for (const id of ["restoring", "frozen", "snapshot", "configuration"]) element(id).disabled = true;
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

function receive(message) {
  if (message.type === "session") start(message);
  else if (message.type === "answer") pendingOffer?.resolve(message.sdp);
  else if (message.type === "status") showStatus(message);
  else if (message.type === "disconnected") fallBack(message.reason);
  else if (message.type === "error") {
    pendingOffer?.reject(new Error(message.message));
    showNote(message.message);
  }
}

// ---- the stream --------------------------------------------------------------------------------

function start(message) {
  session = message;
  showNote("");
  if (session.camera && !camera) offerCamera();
  else watch();
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
  view.draw(source, width, height);
  element("cover").hidden = true;
}

function showTransport(name) {
  element("frame-view").dataset.transport = name;
  showState(`live · ${name}`, "live");
}

function stop() {
  stream?.close();
  stream = null;
  delete element("frame-view").dataset.transport;
}

// ---- statistics and controls -------------------------------------------------------------------

function showStatus(status) {
  const count = (number) => number.toLocaleString("en");
  element("fps").textContent = status.fps.toFixed(1);
  element("age").textContent = `${status.age_ms.toFixed(0)} ms`;
  element("p95").textContent = `${status.age_p95_ms.toFixed(0)} ms`;
  element("restore-ms").textContent = `${status.restore_ms.toFixed(1)} ms`;
  element("shown").textContent = count(status.shown);
  element("dropped").textContent = count(status.dropped);
  element("size").textContent = `${status.width}×${status.height}`;
  element("viewers").textContent = count(status.viewers);
  if (!status.frozen) {
    charts.fps.add(status.fps);
    charts.age.add(status.age_ms);
  }
  setPressed("restoring", status.restoring);
  setPressed("frozen", status.frozen);
  element("snapshot").disabled = false;
  element("after-tag").textContent = status.restored ? "after" : "not restored";
  showConfigurations(status);
  showNote(status.note || (status.failed ? `${count(status.failed)} frames could not be restored and are shown unrestored` : ""));
}

function showConfigurations({ configuration, configurations }) {
  const select = element("configuration");
  const names = configurations.includes(configuration) || !configuration ? configurations : [configuration, ...configurations];
  if (options !== names.join()) {
    options = names.join();
    select.replaceChildren(...names.map((name) => new Option(name.replace(":", " · "), name)));
  }
  select.disabled = configurations.length < 2;
  if (document.activeElement !== select) select.value = configuration;
}

async function takeSnapshot() {
  const index = view.index;
  const address = new URL("snapshot.png", location.href);
  if (index !== null) address.searchParams.set("index", index);
  if (session?.camera) address.searchParams.set("key", session.key);
  const response = await fetch(address);
  if (!response.ok) return showNote(await response.text());
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = /filename="(.+)"/.exec(response.headers.get("Content-Disposition"))?.[1] ?? "mirnet.png";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  return undefined;
}

function showState(text, kind) {
  element("state").textContent = text;
  element("state").className = `pill ${kind}`;
}

function showCover(text) {
  element("cover").hidden = false;
  element("cover-text").textContent = text;
}

function showNote(text) {
  element("note").textContent = text;
  element("note").hidden = !text;
}

function setPressed(id, on) {
  element(id).disabled = false;
  element(id).setAttribute("aria-pressed", on);
}

const isPressed = (id) => element(id).getAttribute("aria-pressed") === "true";
element("restoring").addEventListener("click", () => send({ type: "restoring", on: !isPressed("restoring") }));
element("frozen").addEventListener("click", () => send({ type: "frozen", on: !isPressed("frozen") }));
element("configuration").addEventListener("change", ({ target }) => {
  send({ type: "configuration", configuration: target.value });
  target.blur();
});
element("snapshot").addEventListener("click", takeSnapshot);
element("camera").addEventListener("click", useCamera);
connect();
