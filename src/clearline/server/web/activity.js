// How loud a side is, and whether it speaks, from one frame of 80 ms after the other.
export const QUIETEST = -60; // dB of full scale
const ABOVE_NOISE = 10, AT_LEAST = -45; // dB: what counts as speech
const RISE = 0.2; // dB a frame: how fast the noise floor follows a room that gets louder
const HOLD = 3; // frames that a pause within speech may last

export class Activity {
  constructor() {
    this.level = QUIETEST;
    this.speaking = false;
    this.floor = QUIETEST;
    this.hold = 0;
  }

  // Samples in [-1, 1]. Afterwards `level` (dB) and `speaking` are those of this frame.
  hear(samples) {
    const power = samples.reduce((sum, x) => sum + x * x, 0) / Math.max(1, samples.length);
    this.level = Math.max(QUIETEST, 10 * Math.log10(power + 1e-12));
    this.floor = Math.min(this.level, this.floor + RISE);
    if (this.level > Math.max(AT_LEAST, this.floor + ABOVE_NOISE)) this.hold = HOLD;
    else if (this.hold > 0) this.hold -= 1;
    this.speaking = this.hold > 0;
    return this;
  }
}
