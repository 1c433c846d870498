// A stream of samples at another rate, by windowed-sinc interpolation. Both audio threads and the Opus decoder use it.
const ZEROS = 16; // zero crossings of the kernel on each side
const PHASES = 256; // kernel values between two zero crossings; in between, linear
const PASS = 0.94; // where the filter begins to close, as a share of the lower of the two bandwidths

// Blackman-windowed sinc over [0, ZEROS].
const KERNEL = Float32Array.from({ length: ZEROS * PHASES + 2 }, (_, i) => {
  const x = i / PHASES, turn = Math.PI * x / ZEROS;
  if (x >= ZEROS) return 0;
  return (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x)) * (0.42 + 0.5 * Math.cos(turn) + 0.08 * Math.cos(2 * turn));
});

export class Resampler {
  constructor(from, to) {
    this.step = from / to; // input samples for each output sample
    this.scale = PASS * Math.min(1, to / from); // the filter's bandwidth, as a share of the input's
    this.reach = Math.ceil(ZEROS / this.scale); // input samples that one output sample sees on each side
    this.past = new Float32Array(2 * this.reach); // input that is still seen
    this.next = this.reach; // where the next output sample lies, counted from the start of `past`
  }

  // Takes any number of samples; gives those that are complete. The output lags by `reach` input samples.
  push(input) {
    if (this.step === 1) return input;
    const all = new Float32Array(this.past.length + input.length);
    all.set(this.past);
    all.set(input, this.past.length);
    const count = Math.max(0, Math.floor((all.length - this.reach - 1 - this.next) / this.step) + 1);
    const output = new Float32Array(count);
    for (let i = 0; i < count; i++) output[i] = this.at(all, this.next + i * this.step);
    this.next += count * this.step;
    const seen = Math.min(all.length, Math.max(0, Math.floor(this.next) - this.reach));
    this.past = all.slice(seen);
    this.next -= seen;
    return output;
  }

  at(input, where) {
    let sum = 0;
    for (let n = Math.floor(where) - this.reach + 1; n <= where + this.reach && n < input.length; n++) {
      const x = Math.abs(where - n) * this.scale * PHASES, low = Math.floor(x);
      if (low < KERNEL.length - 1 && n >= 0) sum += input[n] * (KERNEL[low] + (x - low) * (KERNEL[low + 1] - KERNEL[low]));
    }
    return sum * this.scale;
  }
}
