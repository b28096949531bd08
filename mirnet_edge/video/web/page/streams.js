// How pictures come: WebRTC, or JPEG after JPEG in one response where that does not work.

const FIRST_PICTURE_MS = 6000;
const STALLED_MS = 1500;

// Resolve once pictures come by WebRTC, and reject where none comes in time. `ask(message)` sends an
// offer over the session; `answered` resolves with the answer.
export class WebRtcStream {
  #connection = null; #video; #onPicture; #ask; #camera; #watch = 0; #last = 0; #closed = false;

  constructor(video, { ask, onPicture, camera = null }) {
    [this.#video, this.#ask, this.#onPicture, this.#camera] = [video, ask, onPicture, camera];
  }

  async open() {
    const connection = new RTCPeerConnection({ iceServers: [] });
    this.#connection = connection;
    const arrived = new Promise((resolve) => connection.addEventListener("track", resolve));
    if (this.#camera) {
      for (const track of this.#camera.getVideoTracks()) connection.addTrack(track, this.#camera);
    } else {
      connection.addTransceiver("video", { direction: "recvonly" });
    }
    await connection.setLocalDescription(await connection.createOffer());
    await gathered(connection);
    const answer = await this.#ask({ do: "offer", sdp: connection.localDescription.sdp });
    await connection.setRemoteDescription({ type: "answer", sdp: answer });
    const { track, receiver } = await arrived;
    receiver.jitterBufferTarget = 0; // the newest frame, rather than an even flow of older ones
    this.#video.srcObject = new MediaStream([track]);
    this.#video.play().catch(() => {}); // a closed stream; what is missing is seen below
    await this.#follow();
  }

  close() {
    this.#closed = true;
    clearInterval(this.#watch);
    this.#connection?.close();
    this.#video.srcObject = null;
  }

  // Hand over every picture; resolve with the first.
  #follow() {
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error("no picture came by WebRTC")), FIRST_PICTURE_MS);
      const next = this.#video.requestVideoFrameCallback
        ? (then) => this.#video.requestVideoFrameCallback(then)
        : (then) => requestAnimationFrame(then);
      const show = () => {
        if (this.#closed) return;
        if (this.#video.videoWidth) {
          clearTimeout(late);
          this.#last = performance.now();
          this.#onPicture(this.#video, this.#video.videoWidth, this.#video.videoHeight);
          resolve();
        }
        next(show);
      };
      next(show);
      // a decoder that lost a packet waits for a whole picture
      this.#watch = setInterval(() => {
        const stalled = performance.now() - this.#last > STALLED_MS && !document.hidden;
        if (stalled) this.#ask({ do: "refresh" });
      }, STALLED_MS);
    });
  }
}

// The candidates of this machine are there at once; there is no server to wait for.
function gathered(connection) {
  return new Promise((resolve) => {
    if (connection.iceGatheringState === "complete") resolve();
    connection.addEventListener("icegatheringstatechange", () => {
      if (connection.iceGatheringState === "complete") resolve();
    });
    setTimeout(resolve, 1000);
  });
}

export class JpegStream {
  #address; #onPicture; #stop = new AbortController();

  constructor(address, { onPicture }) {
    [this.#address, this.#onPicture] = [address, onPicture];
  }

  // Show pictures until the stream ends; rejects where it breaks.
  async open() {
    const response = await fetch(this.#address, { signal: this.#stop.signal });
    if (!response.ok) throw new Error(await response.text());
    for await (const jpeg of parts(response.body.getReader())) {
      const bitmap = await createImageBitmap(jpeg);
      this.#onPicture(bitmap, bitmap.width, bitmap.height);
    }
  }

  close() {
    this.#stop.abort();
  }
}

// Cut a multipart body apart: a header that ends with an empty line and says the length, then that much.
async function* parts(reader) {
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
