// The last seconds of both sides as two bands: how loud, and, in full colour, when somebody speaks.
import { QUIETEST } from "./activity.js";

const FRAMES = 250; // 20 seconds

export class Timeline {
  constructor(canvas) {
    this.canvas = canvas;
    this.columns = []; // {you, model, dry}
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  clear() {
    this.columns = [];
    this.draw();
  }

  // Once a frame. you and model: {level, speaking}; dry: the reply ran out here.
  add(you, model, dry) {
    this.columns.push({ you: { ...you }, model: { ...model }, dry });
    if (this.columns.length > FRAMES) this.columns.shift();
    this.pending ??= requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.pending = null;
    const { canvas } = this;
    const style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(name);
    const width = canvas.width = canvas.clientWidth * devicePixelRatio;
    const height = canvas.height = canvas.clientHeight * devicePixelRatio;
    const pen = canvas.getContext("2d");
    const step = width / FRAMES, half = height / 2;
    pen.fillStyle = colour("--line");
    for (const middle of [half / 2, half + half / 2]) pen.fillRect(0, middle - devicePixelRatio / 2, width, devicePixelRatio);
    this.columns.forEach(({ you, model, dry }, i) => {
      const x = width - (this.columns.length - i) * step;
      for (const [side, name, middle] of [[you, "--you", half / 2], [model, "--model", half + half / 2]]) {
        const size = (side.level - QUIETEST) / -QUIETEST * half * 0.9;
        pen.globalAlpha = side.speaking ? 1 : 0.3;
        pen.fillStyle = colour(name);
        pen.fillRect(x, middle - size / 2, Math.max(1, step - devicePixelRatio), size);
      }
      pen.globalAlpha = 1;
      pen.fillStyle = colour("--bad");
      if (dry) pen.fillRect(x, half, Math.max(2, step), half);
    });
  }
}
