// What goes over the line: samples as they are (`Pcm`), or Opus by WebCodecs (`Opus`).
// Both take Float32 frames and give bytes to `onBytes`, take bytes and give Float32 sound to `onSound`; `encoded` and `decoded`
// resolve once all that was taken has been given; `isBehind` when the machine cannot do it in real time.
import { OggReader, OggWriter } from "./ogg.js";
import { Resampler } from "./resample.js";

const FULL_SCALE = 32768;
const BITRATE = 48_000; // transparent for speech at 24 kHz
const PACKET_SECONDS = 0.04; // two in a frame
const BEHIND_SECONDS = 2;

export const toInt16 = (samples) =>
  Int16Array.from(samples, (x) => Math.max(-FULL_SCALE, Math.min(FULL_SCALE - 1, Math.round(x * FULL_SCALE))));

export class Pcm {
  static address = "/api/pcm";
  static title = "PCM";
  encode(frame) { this.onBytes(toInt16(frame)); }
  decode(bytes) { this.onSound(Float32Array.from(new Int16Array(bytes), (x) => x / FULL_SCALE)); }
  isBehind = false;
  async encoded() {}
  async decoded() {}
  close() {}
}

export class Opus {
  static address = "/api/opus";
  static title = "Opus";

  // Whether this browser has it; WebCodecs exist on secure pages only.
  static async isSupported(rate) {
    if (typeof AudioEncoder === "undefined" || typeof AudioDecoder === "undefined") return false;
    const answers = [AudioEncoder.isConfigSupported(encoding(rate)), AudioDecoder.isConfigSupported(decoding(rate))];
    return (await Promise.allSettled(answers)).every(({ value }) => value?.supported);
  }

  constructor(rate, onError) {
    this.rate = rate;
    this.microseconds = 0; // encoded
    this.writer = new OggWriter();
    this.reader = new OggReader();
    this.encoder = new AudioEncoder({ output: (chunk) => this.send(chunk), error: onError });
    this.encoder.configure(encoding(rate));
    this.decoder = new AudioDecoder({ output: (data) => this.play(data), error: onError });
    this.decoder.configure(decoding(rate));
  }

  encode(frame) {
    const data = new AudioData({
      format: "f32-planar", sampleRate: this.rate, numberOfChannels: 1, numberOfFrames: frame.length,
      timestamp: this.microseconds, data: frame,
    });
    this.microseconds += 1e6 * frame.length / this.rate;
    this.encoder.encode(data);
    data.close();
  }

  send(chunk) {
    if (this.writer.pages === 0) this.writer.head(this.rate).forEach((page) => this.onBytes(page));
    const packet = new Uint8Array(chunk.byteLength);
    chunk.copyTo(packet);
    this.onBytes(this.writer.packet(packet, (chunk.duration ?? 1e6 * PACKET_SECONDS) / 1e6));
  }

  decode(bytes) {
    for (const data of this.reader.packets(new Uint8Array(bytes))) {
      this.decoder.decode(new EncodedAudioChunk({ type: "key", timestamp: 0, data }));
    }
  }

  play(data) {
    const samples = new Float32Array(data.numberOfFrames);
    data.copyTo(samples, { planeIndex: 0, format: "f32-planar" });
    this.resampler ??= new Resampler(data.sampleRate, this.rate); // browsers decode at 48 kHz
    data.close();
    this.onSound(this.resampler.push(samples));
  }

  get isBehind() { return Math.max(this.encoder.encodeQueueSize, this.decoder.decodeQueueSize) * PACKET_SECONDS > BEHIND_SECONDS; }
  async encoded() { if (this.encoder.state === "configured") await this.encoder.flush().catch(() => {}); }
  async decoded() { if (this.decoder.state === "configured") await this.decoder.flush().catch(() => {}); }

  close() {
    for (const end of [this.encoder, this.decoder]) if (end.state !== "closed") end.close();
  }
}

const encoding = (rate) => ({
  codec: "opus", sampleRate: rate, numberOfChannels: 1, bitrate: BITRATE,
  opus: { application: "voip", frameDuration: 1e6 * PACKET_SECONDS },
});
const decoding = (rate) => ({ codec: "opus", sampleRate: rate, numberOfChannels: 1 });
