// One conversation: microphone, codec, WebSocket (docs/protocols.md says what crosses it), codec, loudspeaker.
import { Opus, Pcm } from "./codecs.js";
import { openMicrophone } from "./microphone.js";

const SEND_AT_MOST_SECONDS = 10; // sound waiting to be sent; what comes while so much waits is dropped
const LAST_WORDS_MS = 2000, ALL_LAST_WORDS_MS = 10_000; // after "stop": how long to wait for the next answer, and for all of them
const DECODE_MS = 5000; // for Opus that is still being decoded

const CLOSED = {
  1001: "The server is going down.",
  1006: "The connection was lost: the server stopped, or the network did.",
  1012: "The server is going down.",
  1009: "The server refused a message as too long.",
};

export class Conversation {
  // facts: of /api/info. wishes: {settings, token, codec: "auto" | "opus" | "pcm", headphones}.
  // on: what is called as things happen: message(json), heard(samples), said(samples), line(figures), ended(problem).
  constructor(facts, wishes, on) {
    Object.assign(this, { facts, wishes, on });
    this.muted = false;
    this.latest = Infinity;
    this.ending = false; // nothing is heard any more, nothing played
    this.isOver = false; // nothing is answered any more
    this.sent = []; // when each frame that has no reply yet was heard
    this.line = { delay: null, wait: 0, target: 0, dry: 0, skipped: 0, dropped: 0, isBehind: false, up: 0, down: 0 };
    this.problem = "";
  }

  async open() {
    try {
      await this.openSound();
      this.stream = await openMicrophone(this.wishes.headphones);
      this.stream.getTracks()[0].onended = () => this.fail("The microphone is gone: it was unplugged or taken away.");
      this.context.createMediaStreamSource(this.stream).connect(this.capture);
      await this.context.resume();
      this.codec = await this.chosenCodec();
      this.codec.onBytes = (bytes) => this.send(bytes);
      this.codec.onSound = (samples) => this.say(samples);
      this.connect();
    } catch (error) {
      this.release();
      throw error;
    }
  }

  async openSound() {
    const { sample_rate: rate, frame_size: frameSize } = this.facts;
    // At the device's own rate: Firefox connects no microphone to a context at another.
    this.context = new AudioContext({ latencyHint: "interactive" });
    const modules = ["capture.js", "player.js"];
    await Promise.all(modules.map((name) => this.context.audioWorklet.addModule(new URL(name, import.meta.url))));
    this.capture = new AudioWorkletNode(this.context, "capture", {
      channelCount: 1, channelCountMode: "explicit", processorOptions: { rate, frameSize },
    });
    this.player = new AudioWorkletNode(this.context, "player", {
      numberOfInputs: 0, outputChannelCount: [1], processorOptions: { rate },
    });
    this.capture.port.onmessage = ({ data }) => this.hear(data);
    this.player.port.onmessage = ({ data }) => Object.assign(this.line, data); // wait, target, dry, skipped
    this.capture.connect(this.context.destination); // it is silent; what leads nowhere may not be run at all
    this.player.connect(this.context.destination);
  }

  async chosenCodec() {
    const { codec } = this.wishes;
    const offered = this.facts.protocols.includes("opus");
    const isPossible = codec !== "pcm" && offered && await Opus.isSupported(this.facts.sample_rate);
    if (isPossible) return new Opus(this.facts.sample_rate, (error) => this.fail(`Opus failed: ${error.message}`));
    if (codec === "opus") throw new Error(`This ${offered ? "browser" : "server"} has no Opus: choose PCM under Settings.`);
    return new Pcm();
  }

  connect() {
    const query = new URLSearchParams(this.wishes.settings);
    if (this.wishes.token) query.set("token", this.wishes.token);
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(`${scheme}//${location.host}${this.codec.constructor.address}?${query}`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = ({ data }) => {
      if (this.isOver) return;
      if (data instanceof ArrayBuffer) this.answer(data);
      else this.tell(JSON.parse(data));
    };
    this.socket.onclose = ({ code }) => {
      if (code !== 1000) this.problem ||= CLOSED[code] ?? `The server closed the line (${code}).`;
      this.end();
    };
  }

  tell(message) {
    if (message.type === "error") this.problem = message.message;
    if (message.type === "first_sound") this.sent.splice(0, message.frame); // the frames before it have no reply
    this.on.message(message);
  }

  // A frame of the microphone.
  hear(frame) {
    if (this.ending || this.socket?.readyState !== WebSocket.OPEN) return;
    if (this.muted) frame.fill(0); // silence keeps the model's clock going
    if (this.socket.bufferedAmount > SEND_AT_MOST_SECONDS * 2 * this.facts.sample_rate) {
      this.line.dropped += 1;
      return;
    }
    this.sent.push(performance.now());
    this.codec.encode(frame);
    this.on.heard(frame);
  }

  send(bytes) {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    this.socket.send(bytes);
    this.line.up += bytes.byteLength;
  }

  // The reply to a frame, as bytes.
  answer(bytes) {
    this.line.down += bytes.byteLength;
    if (this.ending) this.awaitLastWords();
    const heardAt = this.sent.shift();
    this.codec.decode(bytes);
    if (heardAt === undefined) return;
    const frame = this.facts.frame_size / this.facts.sample_rate;
    // The frame itself, the way there and back, what waits before it, and what the sound card still holds.
    this.line.delay = frame + (performance.now() - heardAt) / 1000 + this.line.wait + (this.context.outputLatency || 0);
    this.line.isBehind = this.codec.isBehind;
    this.on.line(this.line);
  }

  say(samples) {
    if (!samples.length) return;
    this.on.said(samples);
    if (!this.ending) this.player.port.postMessage(samples);
  }

  // Ends in good order: what was heard is still answered, for the recording's sake, but not played. Asked again, ends at once.
  async stop() {
    if (this.ending) return this.end();
    this.ending = true;
    this.player.disconnect();
    this.stream.getTracks().forEach((track) => track.stop());
    await this.codec.encoded();
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type: "end" }));
    this.latest = performance.now() + ALL_LAST_WORDS_MS;
    this.awaitLastWords();
  }

  awaitLastWords() {
    clearTimeout(this.patience);
    const left = Math.min(LAST_WORDS_MS, this.latest - performance.now());
    if (left > 0) this.patience = setTimeout(() => this.end(), left);
    else this.end();
  }

  fail(problem) {
    this.problem ||= problem;
    this.end();
  }

  async end() {
    if (this.isOver) return;
    this.isOver = this.ending = true;
    clearTimeout(this.patience);
    await Promise.race([this.codec?.decoded(), new Promise((resolve) => setTimeout(resolve, DECODE_MS))]);
    this.release();
    this.on.ended(this.problem);
  }

  release() {
    this.ending = true;
    this.stream?.getTracks().forEach((track) => { track.onended = null; track.stop(); });
    this.codec?.close();
    this.socket?.close();
    if (this.context && this.context.state !== "closed") this.context.close();
  }
}
