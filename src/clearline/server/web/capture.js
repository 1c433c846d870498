// Runs in the audio thread: collects the microphone into frames and posts each with its level.
class Capture extends AudioWorkletProcessor {
  constructor(options) {
    super();
    this.frame = new Float32Array(options.processorOptions.frameSize);
    this.filled = 0;
  }

  process(inputs) {
    const input = inputs[0][0]; // mono; absent while no microphone is connected
    if (!input) return true;
    let used = 0;
    while (used < input.length) {
      const count = Math.min(input.length - used, this.frame.length - this.filled);
      this.frame.set(input.subarray(used, used + count), this.filled);
      this.filled += count;
      used += count;
      if (this.filled === this.frame.length) {
        this.port.postMessage(this.frame.slice());
        this.filled = 0;
      }
    }
    return true;
  }
}
registerProcessor("capture", Capture);
