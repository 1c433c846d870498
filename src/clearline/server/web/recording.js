// A conversation kept in this page, and nowhere else, until it is downloaded.
import { toInt16 } from "./codecs.js";

export const MOST_MINUTES = 60; // 350 MB of samples

export class Recording {
  constructor(facts, about) {
    this.rate = facts.sample_rate;
    this.frameSize = facts.frame_size;
    this.about = about;
    this.started = Date.now();
    this.heard = [];
    this.said = [];
    this.saidFrom = 0; // samples
    this.events = [];
    this.isFull = false;
  }

  get milliseconds() { return Date.now() - this.started; }

  hear(samples) {
    this.isFull ||= this.heard.length * this.frameSize >= MOST_MINUTES * 60 * this.rate;
    if (!this.isFull) this.heard.push(toInt16(samples));
  }

  say(samples) { if (!this.isFull) this.said.push(toInt16(samples)); }

  event(message) {
    // The reply to frame n can begin when frame n has been heard to its end.
    if (message.type === "first_sound") this.saidFrom = (message.frame + 1) * this.frameSize;
    this.events.push({ ms: this.milliseconds, ...message });
  }

  // 16-bit WAV at the model's rate: left the user, as sent; right the model, each frame after the one it answers.
  wav() {
    const samples = Math.max(count(this.heard), this.said.length ? this.saidFrom + count(this.said) : 0);
    const data = new Int16Array(samples * 2);
    const place = (pieces, from, channel) => {
      for (const piece of pieces) for (const sample of piece) data[2 * from++ + channel] = sample;
    };
    place(this.heard, 0, 0);
    place(this.said, this.saidFrom, 1);
    return new Blob([header(this.rate, data.byteLength), data], { type: "audio/wav" });
  }

  trace() {
    const { about, rate, frameSize, events } = this;
    const trace = { ...about, started: new Date(this.started).toISOString(), rate, frame_size: frameSize,
      samples_heard: count(this.heard), samples_said: count(this.said), said_from: this.saidFrom, events };
    return new Blob([JSON.stringify(trace, null, 1)], { type: "application/json" });
  }
}

const count = (pieces) => pieces.reduce((sum, piece) => sum + piece.length, 0);

function header(rate, bytes) {
  const channels = 2, width = 2;
  const view = new DataView(new ArrayBuffer(44));
  const letters = (at, text) => [...text].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  letters(0, "RIFF");
  view.setUint32(4, 36 + bytes, true);
  letters(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, channels, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, rate * channels * width, true);
  view.setUint16(32, channels * width, true);
  view.setUint16(34, 8 * width, true);
  letters(36, "data");
  view.setUint32(40, bytes, true);
  return view;
}
