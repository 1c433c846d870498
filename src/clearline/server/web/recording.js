// A conversation kept in this page: what was heard and said, frame by frame, on one clock.
export class Recording {
  constructor(sampleRate, frameSize) {
    this.sampleRate = sampleRate;
    this.frameSize = frameSize;
    this.heard = [];
    this.said = []; // {frame, pcm}
    this.events = [];
    this.text = "";
  }

  hear(pcm) { this.heard.push(pcm); }
  // The reply to frame n sounds after frame n was heard: at position n + 1.
  say(pcm) { this.said.push({ position: Math.max(this.said.length ? this.said.at(-1).position + 1 : 0, this.heard.length), pcm }); }
  event(message) {
    this.events.push({ ms: Math.round(performance.now()), ...message });
    if (message.type === "text") this.text += message.text;
  }

  // 16-bit WAV, left the user, right the model.
  wav() {
    const frames = Math.max(this.heard.length, this.said.length ? this.said.at(-1).position + 1 : 0);
    const data = new Int16Array(frames * this.frameSize * 2);
    const place = (pcm, position, channel) => {
      for (let i = 0; i < pcm.length; i++) data[2 * (position * this.frameSize + i) + channel] = pcm[i];
    };
    this.heard.forEach((pcm, position) => place(pcm, position, 0));
    this.said.forEach(({ position, pcm }) => place(pcm, position, 1));
    const header = new DataView(new ArrayBuffer(44));
    const letters = (at, text) => [...text].forEach((letter, i) => header.setUint8(at + i, letter.charCodeAt(0)));
    letters(0, "RIFF"); header.setUint32(4, 36 + data.byteLength, true); letters(8, "WAVEfmt ");
    header.setUint32(16, 16, true); header.setUint16(20, 1, true); header.setUint16(22, 2, true);
    header.setUint32(24, this.sampleRate, true); header.setUint32(28, this.sampleRate * 4, true);
    header.setUint16(32, 4, true); header.setUint16(34, 16, true); letters(36, "data"); header.setUint32(40, data.byteLength, true);
    return new Blob([header, data], { type: "audio/wav" });
  }

  transcript() { return new Blob([this.text.trim() + "\n"], { type: "text/plain" }); }
  trace() { return new Blob([JSON.stringify(this.events, null, 1)], { type: "application/json" }); }
}
