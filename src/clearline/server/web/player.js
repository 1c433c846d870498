// Runs in the audio thread: plays frames as they come, behind a jitter buffer that adapts.
//
// Playing begins when `reserve` samples wait. Each time the buffer runs dry the reserve grows by 20 ms, up to 400 ms; after
// 10 seconds without running dry it shrinks by 20 ms, and samples beyond it are skipped where the reply is silent.
const STEP = 0.02, LEAST = 0.04, MOST = 0.4, CALM_SECONDS = 10, SILENCE = 0.003;

class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.queue = [];
    this.offset = 0; // into the first frame
    this.waiting = 0; // samples
    this.reserve = 2 * LEAST;
    this.playing = false;
    this.dry = 0;
    this.calm = 0; // samples played since it last ran dry
    this.port.onmessage = ({ data }) => { this.queue.push(data); this.waiting += data.length; };
  }

  process(_, outputs) {
    const output = outputs[0][0];
    if (!this.playing && this.waiting >= this.reserve * sampleRate) this.playing = true;
    if (!this.playing) return true;
    let done = 0;
    while (done < output.length && this.queue.length) {
      const frame = this.queue[0];
      const count = Math.min(output.length - done, frame.length - this.offset);
      output.set(frame.subarray(this.offset, this.offset + count), done);
      done += count;
      this.take(count);
    }
    if (done < output.length) {
      this.playing = false;
      this.dry += 1;
      this.calm = 0;
      this.reserve = Math.min(MOST, this.reserve + STEP);
      this.report();
    } else if ((this.calm += done) >= CALM_SECONDS * sampleRate) {
      this.calm = 0;
      this.reserve = Math.max(LEAST, this.reserve - STEP);
    }
    this.catchUp(output);
    return true;
  }

  // More than twice the reserve waits, after a burst or a hiccup: skip what nobody would hear.
  catchUp(output) {
    if (this.waiting < 2 * this.reserve * sampleRate + output.length || !this.queue.length) return;
    if (output.every((sample) => Math.abs(sample) < SILENCE)) this.take(Math.min(output.length, this.queue[0].length - this.offset));
  }

  take(count) {
    this.offset += count;
    this.waiting -= count;
    if (this.offset === this.queue[0].length) {
      this.queue.shift();
      this.offset = 0;
      this.report();
    }
  }

  report() {
    this.port.postMessage({ waiting: this.waiting / sampleRate, reserve: this.reserve, dry: this.dry });
  }
}
registerProcessor("player", Player);
