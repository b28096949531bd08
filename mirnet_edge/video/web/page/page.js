// The page: a session with the server, the picture, the figures and the buttons.

import { Chart } from "./chart.js";
import { Picture } from "./picture.js";
import { JpegStream, WebRtcStream } from "./streams.js";

const RETRY_MS = 1500;
const element = (id) => document.getElementById(id);

const picture = new Picture(element("stage"), element("picture"), element("split"));
const charts = { fps: new Chart(element("fps-chart")), age: new Chart(element("age-chart")) };
const forced = new URLSearchParams(location.search).get("transport"); // "mjpeg" leaves WebRTC out

let socket = null;
let stream = null;
let hello = null;
let camera = null;
let waiting = null; // resolves with the answer to an offer
let modes = "";

// ---- the session -------------------------------------------------------------------------------

function connect() {
  const address = new URL("session", location.href);
  address.protocol = address.protocol.replace("http", "ws");
  socket = new WebSocket(address);
  socket.addEventListener("message", (event) => hear(JSON.parse(event.data)));
  socket.addEventListener("close", () => {
    stop();
    say("no connection", "lost");
    for (const id of ["restoring", "frozen", "snapshot", "mode"]) element(id).disabled = true;
    setTimeout(connect, RETRY_MS);
  });
}

function ask(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function offer(message) {
  if (message.do !== "offer") return ask(message);
  return new Promise((resolve, reject) => {
    waiting = { resolve, reject };
    ask(message);
  });
}

function hear(message) {
  if (message.say === "hello") begin(message);
  else if (message.say === "answer") waiting?.resolve(message.sdp);
  else if (message.say === "figures") showFigures(message);
  else if (message.say === "lost") fallBack(message.why);
  else if (message.say === "problem") {
    waiting?.reject(new Error(message.text));
    note(message.text);
  }
}

// ---- the picture -------------------------------------------------------------------------------

function begin(message) {
  hello = message;
  note("");
  if (hello.camera && !camera) inviteCamera();
  else watch();
}

function inviteCamera() {
  say("ready", "");
  const secure = Boolean(navigator.mediaDevices);
  element("camera").hidden = !secure;
  cover(
    secure
      ? "Your camera's picture goes to this server, is restored there, and comes back to you alone."
      : `A browser gives its camera only to https and to the server's own machine. ${
          hello.https ? `For https, there: ${hello.https}` : "Open the page as http://127.0.0.1, for instance through an SSH tunnel."
        }`,
  );
}

async function useCamera() {
  try {
    camera = await navigator.mediaDevices.getUserMedia({
      video: { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user" },
    });
  } catch (error) {
    return cover(`The browser did not give its camera: ${error.message}`);
  }
  element("camera").hidden = true;
  return watch();
}

async function watch() {
  stop();
  cover("Waiting for the first frame");
  say("connecting", "");
  if (forced === "mjpeg" && !camera) return watchJpeg();
  const own = new WebRtcStream(element("received"), { ask: offer, onPicture, camera });
  stream = own;
  try {
    await own.open();
    if (stream === own) arrived("WebRTC");
  } catch (error) {
    if (stream === own) fallBack(error.message);
  }
}

function fallBack(why) {
  stop();
  ask({ do: "hangup" });
  if (!camera) return watchJpeg();
  // a camera cannot be sent in any other way
  for (const track of camera.getTracks()) track.stop();
  camera = null;
  note(why);
  return inviteCamera();
}

async function watchJpeg() {
  const own = new JpegStream("stream.mjpg", {
    onPicture: (...args) => {
      onPicture(...args);
      if (element("picture").dataset.transport !== "MJPEG") arrived("MJPEG");
    },
  });
  stream = own;
  try {
    await own.open();
  } catch (error) {
    if (stream === own) note(error.message);
  }
  if (stream === own && socket?.readyState === WebSocket.OPEN) setTimeout(() => stream === own && watch(), RETRY_MS);
}

function onPicture(source, width, height) {
  picture.draw(source, width, height);
  element("cover").hidden = true;
}

function arrived(transport) {
  element("picture").dataset.transport = transport;
  say(`live · ${transport}`, "live");
}

function stop() {
  stream?.close();
  stream = null;
  delete element("picture").dataset.transport;
}

// ---- figures and buttons -----------------------------------------------------------------------

function showFigures(figures) {
  const count = (number) => number.toLocaleString("en");
  element("fps").textContent = figures.fps.toFixed(1);
  element("age").textContent = `${figures.age_ms.toFixed(0)} ms`;
  element("p95").textContent = `${figures.age_p95_ms.toFixed(0)} ms`;
  element("restore-ms").textContent = `${figures.restore_ms.toFixed(1)} ms`;
  element("shown").textContent = count(figures.shown);
  element("dropped").textContent = count(figures.dropped);
  element("size").textContent = `${figures.width}×${figures.height}`;
  element("viewers").textContent = count(figures.viewers);
  if (!figures.frozen) {
    charts.fps.add(figures.fps);
    charts.age.add(figures.age_ms);
  }
  press("restoring", figures.restoring);
  press("frozen", figures.frozen);
  element("snapshot").disabled = false;
  element("after-tag").textContent = figures.restored ? "after" : "not restored";
  offerModes(figures);
  note(figures.note || (figures.failed ? `${count(figures.failed)} frames could not be restored and are shown as they came` : ""));
}

function press(id, on) {
  element(id).disabled = false;
  element(id).setAttribute("aria-pressed", on);
}

function offerModes({ mode, modes: known }) {
  const select = element("mode");
  const offered = known.includes(mode) || !mode ? known : [mode, ...known];
  if (modes !== offered.join()) {
    modes = offered.join();
    select.replaceChildren(...offered.map((name) => new Option(name.replace(":", " · "), name)));
  }
  select.disabled = known.length < 2;
  if (document.activeElement !== select) select.value = mode;
}

async function takeSnapshot() {
  const index = picture.index;
  const address = new URL("snapshot.png", location.href);
  if (index !== null) address.searchParams.set("index", index);
  if (hello?.camera) address.searchParams.set("key", hello.key);
  const response = await fetch(address);
  if (!response.ok) return note(await response.text());
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = /filename="(.+)"/.exec(response.headers.get("Content-Disposition"))?.[1] ?? "mirnet.png";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  return undefined;
}

function say(text, kind) {
  element("state").textContent = text;
  element("state").className = `pill ${kind}`;
}

function cover(text) {
  element("cover").hidden = false;
  element("cover-text").textContent = text;
}

function note(text) {
  element("note").textContent = text;
  element("note").hidden = !text;
}

const pressed = (id) => element(id).getAttribute("aria-pressed") === "true";
element("restoring").addEventListener("click", () => ask({ do: "restoring", on: !pressed("restoring") }));
element("frozen").addEventListener("click", () => ask({ do: "frozen", on: !pressed("frozen") }));
element("mode").addEventListener("change", ({ target }) => {
  ask({ do: "mode", mode: target.value });
  target.blur();
});
element("snapshot").addEventListener("click", takeSnapshot);
element("camera").addEventListener("click", useCamera);
connect();
