// Receive frames: by WebRTC, or as MJPEG over HTTP where WebRTC does not work.

const FIRST_FRAME_MS = 6000;
const STALLED_MS = 1500;

// Receive frames by WebRTC. `send(message)` sends over the session; for an offer it resolves with the
// answer (SDP).
export class WebRtcStream {
  #connection = null; #video; #onFrame; #send; #camera; #watch = 0; #last = 0; #closed = false;

  constructor(video, { send, onFrame, camera = null }) {
    [this.#video, this.#send, this.#onFrame, this.#camera] = [video, send, onFrame, camera];
  }

  // Resolve with the first frame; reject where none comes in time.
  async open() {
    const connection = new RTCPeerConnection({ iceServers: [] });
    this.#connection = connection;
    const trackEvent = new Promise((resolve) => connection.addEventListener("track", resolve));
    if (this.#camera) {
      for (const track of this.#camera.getVideoTracks()) connection.addTrack(track, this.#camera);
    } else {
      connection.addTransceiver("video", { direction: "recvonly" });
    }
    await connection.setLocalDescription(await connection.createOffer());
    await gatherCandidates(connection);
    const answer = await this.#send({ type: "offer", sdp: connection.localDescription.sdp });
    await connection.setRemoteDescription({ type: "answer", sdp: answer });
    const { track, receiver } = await trackEvent;
    receiver.jitterBufferTarget = 0; // the newest frame, rather than an even flow of older ones
    this.#video.srcObject = new MediaStream([track]);
    this.#video.play().catch(() => {}); // a closed stream; a missing frame is reported below
    await this.#readFrames();
  }

  close() {
    this.#closed = true;
    clearInterval(this.#watch);
    this.#connection?.close();
    this.#video.srcObject = null;
  }

  // Pass every frame on; resolve with the first.
  #readFrames() {
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error("no frame arrived by WebRTC")), FIRST_FRAME_MS);
      const next = this.#video.requestVideoFrameCallback
        ? (then) => this.#video.requestVideoFrameCallback(then)
        : (then) => requestAnimationFrame(then);
      const show = () => {
        if (this.#closed) return;
        if (this.#video.videoWidth) {
          clearTimeout(late);
          this.#last = performance.now();
          this.#onFrame(this.#video, this.#video.videoWidth, this.#video.videoHeight);
          resolve();
        }
        next(show);
      };
      next(show);
      // a decoder that lost a packet waits for a key frame
      this.#watch = setInterval(() => {
        const stalled = performance.now() - this.#last > STALLED_MS && !document.hidden;
        if (stalled) this.#send({ type: "refresh" });
      }, STALLED_MS);
    });
  }
}

// Resolve once the ICE candidates are known: there is no STUN server to wait for.
function gatherCandidates(connection) {
  return new Promise((resolve) => {
    if (connection.iceGatheringState === "complete") resolve();
    connection.addEventListener("icegatheringstatechange", () => {
      if (connection.iceGatheringState === "complete") resolve();
    });
    setTimeout(resolve, 1000);
  });
}

// Receive frames as MJPEG: one response, a JPEG file per part.
export class JpegStream {
  #address; #onFrame; #stop = new AbortController();

  constructor(address, { onFrame }) {
    [this.#address, this.#onFrame] = [address, onFrame];
  }

  // Receive frames until the stream ends; reject where it breaks.
  async open() {
    const response = await fetch(this.#address, { signal: this.#stop.signal });
    if (!response.ok) throw new Error(await response.text());
    for await (const jpeg of readParts(response.body.getReader())) {
      const bitmap = await createImageBitmap(jpeg);
      this.#onFrame(bitmap, bitmap.width, bitmap.height);
    }
  }

  close() {
    this.#stop.abort();
  }
}

// Yield the parts of a multipart body as blobs: a header with the length, an empty line, the content.
async function* readParts(reader) {
  let bytes = new Uint8Array(0);
  while (true) {
    const { done, value } = await reader.read();
    if (done) return;
    const joined = new Uint8Array(bytes.length + value.length);
    joined.set(bytes);
    joined.set(value, bytes.length);
    bytes = joined;
    while (true) {
      const head = new TextDecoder("latin1").decode(bytes.subarray(0, 256));
      const end = head.indexOf("\r\n\r\n");
      const length = Number(/content-length: (\d+)/i.exec(head)?.[1]);
      if (end < 0 || !length || bytes.length < end + 4 + length + 2) break;
      yield new Blob([bytes.subarray(end + 4, end + 4 + length)], { type: "image/jpeg" });
      bytes = bytes.slice(end + 4 + length + 2);
    }
  }
}
