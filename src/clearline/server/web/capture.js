// Runs in the audio thread: the microphone, at whatever rate the device has, as frames at the model's rate.
import { Resampler } from "./resample.js";

class Capture extends AudioWorkletProcessor {
  constructor({ processorOptions: { rate, frameSize } }) {
    super();
    this.resampler = new Resampler(sampleRate, rate);
    this.frame = new Float32Array(frameSize);
    this.filled = 0;
  }

  process(inputs) {
    const input = inputs[0][0]; // mono; absent while no microphone is connected
    if (!input) return true;
    let samples = this.resampler.push(input);
    while (samples.length) {
      const part = samples.subarray(0, this.frame.length - this.filled);
      this.frame.set(part, this.filled);
      this.filled += part.length;
      samples = samples.subarray(part.length);
      if (this.filled < this.frame.length) break;
      this.port.postMessage(this.frame.slice());
      this.filled = 0;
    }
    return true;
  }
}
registerProcessor("capture", Capture);
