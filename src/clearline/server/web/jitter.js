// A jitter buffer that adapts. It knows no clock but the one it is given (seconds), so it can be tested to the sample.
//
// `spread` of a piece of sound is how much later it came than the most punctual one of the last WINDOW seconds. The buffer holds
// back `target`: the worst spread it remembers and a margin. What is held too much or too little is put right in
// silence, where nobody hears it; only above MOST is sound dropped at once.
const WINDOW = 10, MARGIN = 0.01, MOST = 0.5, TOLERANCE = 0.015;
const AT_FIRST = 0.03; // the spread that is assumed before anything is known
const SILENCE = 0.003; // samples below this are silence

export class JitterBuffer {
  constructor(rate) {
    this.rate = rate;
    this.queue = []; // Float32Array
    this.offset = 0; // into the first of them
    this.waiting = 0; // samples
    this.received = 0; // seconds of sound so far
    this.arrivals = []; // {now, late}: of the last WINDOW seconds
    this.startAt = 0;
    this.playing = false;
    this.wait = 0; // seconds until the piece that came last begins to sound
    this.excess = 0; // seconds held beyond the target; negative when it is too little
    this.target = AT_FIRST + MARGIN;
    this.dry = 0; // times it ran out of sound
    this.skipped = 0; // seconds of silence, or of sound that came much too late, not played
  }

  get seconds() { return this.waiting / this.rate; }

  push(samples, now) {
    const held = this.seconds + (this.playing ? 0 : this.startAt - now);
    const late = now - this.received;
    if (this.received === 0) this.arrivals.push({ now, late: late + AT_FIRST });
    this.arrivals.push({ now, late });
    while (this.arrivals[0].now < now - WINDOW) this.arrivals.shift();
    const lates = this.arrivals.map((arrival) => arrival.late);
    const punctual = Math.min(...lates);
    this.target = Math.min(MOST, Math.max(...lates) - punctual + MARGIN);
    const wanted = Math.max(0, this.target - (late - punctual)); // what should be held when this piece comes
    if (!this.playing && this.waiting === 0) {
      this.startAt = now + wanted;
      this.wait = wanted;
    } else {
      this.excess = held - wanted;
      this.wait = held;
    }
    this.queue.push(samples);
    this.waiting += samples.length;
    this.received += samples.length / this.rate;
    while (this.seconds > MOST + samples.length / this.rate) this.skip(samples.length);
  }

  // Fills `output`, which is silent, with what is due; called for every few milliseconds.
  pull(output, now) {
    if (!this.playing && (this.waiting === 0 || now < this.startAt)) return;
    this.playing = true;
    const seconds = output.length / this.rate;
    if (this.excess < -TOLERANCE && this.isQuiet(output.length)) {
      this.excess += seconds; // play silence, and hold more
      return;
    }
    while (this.excess > TOLERANCE && this.waiting > 2 * output.length && this.isQuiet(output.length)) this.skip(output.length);
    const count = this.take(output.length, output);
    if (count === output.length) return;
    this.playing = false;
    this.dry += 1;
  }

  skip(count) {
    const skipped = this.take(count) / this.rate;
    this.skipped += skipped;
    this.excess -= skipped;
  }

  isQuiet(count) {
    return this.queue.length > 0 && this.queue[0].subarray(this.offset, this.offset + count).every((x) => Math.abs(x) < SILENCE);
  }

  take(count, output) {
    let done = 0;
    while (done < count && this.queue.length) {
      const piece = this.queue[0].subarray(this.offset, this.offset + count - done);
      output?.set(piece, done);
      done += piece.length;
      this.offset += piece.length;
      if (this.offset === this.queue[0].length) {
        this.queue.shift();
        this.offset = 0;
      }
    }
    this.waiting -= done;
    return done;
  }
}
