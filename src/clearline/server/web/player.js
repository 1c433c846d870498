// Runs in the audio thread: plays the reply from a jitter buffer, at whatever rate the device has.
import { JitterBuffer } from "./jitter.js";
import { Resampler } from "./resample.js";

class Player extends AudioWorkletProcessor {
  constructor({ processorOptions: { rate } }) {
    super();
    this.resampler = new Resampler(rate, sampleRate);
    this.buffer = new JitterBuffer(sampleRate);
    this.port.onmessage = ({ data }) => {
      this.buffer.push(this.resampler.push(data), currentTime);
      this.report();
    };
  }

  process(_, outputs) {
    const { dry } = this.buffer;
    this.buffer.pull(outputs[0][0], currentTime);
    if (this.buffer.dry !== dry) this.report();
    return true;
  }

  report() {
    const { wait, target, dry, skipped } = this.buffer;
    this.port.postMessage({ wait, target, dry, skipped });
  }
}
registerProcessor("player", Player);
