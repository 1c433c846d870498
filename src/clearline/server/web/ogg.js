// Ogg pages around Opus packets (RFC 3533, RFC 7845): as much as one mono stream over a WebSocket needs.
const HEADER = 27, FIRST = 2;
const OPUS_CLOCK = 48_000; // positions count samples at this rate, whatever the rate of the sound

const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte << 24;
  for (let bit = 0; bit < 8; bit++) value = value & 0x80000000 ? (value << 1) ^ 0x04c11db7 : value << 1;
  return value;
});
const checksum = (bytes) => bytes.reduce((crc, byte) => (crc << 8) ^ CRC[(crc >>> 24) ^ byte], 0) >>> 0;

export class OggWriter {
  constructor() {
    this.serial = Math.floor(Math.random() * 2 ** 32);
    this.pages = 0;
    this.position = 0;
  }

  // The two pages before the sound: what it is, and who made it.
  head(rate) {
    const head = new DataView(new ArrayBuffer(19));
    text(head, 0, "OpusHead");
    head.setUint8(8, 1); // version
    head.setUint8(9, 1); // channels
    head.setUint32(12, rate, true); // of the input, for information
    const tags = new DataView(new ArrayBuffer(25));
    text(tags, 0, "OpusTags");
    tags.setUint32(8, 9, true);
    text(tags, 12, "clearline");
    return [this.page(new Uint8Array(head.buffer), FIRST), this.page(new Uint8Array(tags.buffer), 0)];
  }

  packet(bytes, seconds) {
    this.position += Math.round(seconds * OPUS_CLOCK);
    return this.page(bytes, 0);
  }

  // A page with a single packet, shorter than 65 kB.
  page(packet, flags) {
    const lacing = Math.floor(packet.length / 255) + 1;
    const bytes = new Uint8Array(HEADER + lacing + packet.length);
    const view = new DataView(bytes.buffer);
    text(view, 0, "OggS");
    view.setUint8(5, flags);
    view.setBigUint64(6, BigInt(this.position), true);
    view.setUint32(14, this.serial, true);
    view.setUint32(18, this.pages++, true);
    view.setUint8(26, lacing);
    bytes.fill(255, HEADER, HEADER + lacing - 1);
    bytes[HEADER + lacing - 1] = packet.length % 255;
    bytes.set(packet, HEADER + lacing);
    view.setUint32(22, checksum(bytes), true);
    return bytes;
  }
}

export class OggReader {
  constructor() { this.begun = []; } // parts of a packet that goes on in the next page

  // The Opus packets of whole pages; not the two headers.
  packets(bytes) {
    const found = [];
    for (let at = 0; at < bytes.length;) {
      if (String.fromCharCode(...bytes.subarray(at, at + 4)) !== "OggS") throw new Error("The server's sound is not Ogg.");
      const sizes = bytes.subarray(at + HEADER, at + HEADER + bytes[at + 26]);
      at += HEADER + sizes.length;
      for (const size of sizes) {
        this.begun.push(bytes.subarray(at, at + size));
        at += size;
        if (size === 255) continue;
        const packet = new Uint8Array(this.begun.flatMap((part) => [...part]));
        this.begun = [];
        if (!["OpusHead", "OpusTags"].includes(String.fromCharCode(...packet.subarray(0, 8)))) found.push(packet);
      }
    }
    return found;
  }
}

function text(view, at, letters) { [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0))); }
