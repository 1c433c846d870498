// What the model says, word by word, and when either side speaks: a list of turns.
const BRIEF = 0.24; // seconds: a cough makes no turn
const PHRASE_MS = 1500; // a phrase is read out when it ends, or after such a pause

export class Transcript {
  // box: scrolls, and holds an <ol>. spoken: a live region; words that come one by one would be read out as stammering.
  constructor(box, spoken) {
    this.box = box;
    this.list = box.querySelector("ol");
    this.spoken = spoken;
    this.clear();
  }

  clear() {
    this.list.replaceChildren();
    this.spoken.textContent = "";
    this.turns = [];
    this.spoke = 0; // seconds the user has been speaking
    this.turn = null; // the user's turn, while it lasts
    this.phrase = "";
    clearTimeout(this.pause);
  }

  // Once a frame of so many seconds: whether the user speaks, at `now` of the conversation.
  user(speaking, now, seconds) {
    if (!speaking) {
      this.spoke = 0;
      this.turn = null;
      return;
    }
    this.spoke += seconds;
    if (this.spoke < BRIEF) return;
    if (!this.turn) {
      const last = this.turns.at(-1);
      this.turn = last?.who === "you" ? last : this.add("you", "You", Math.max(0, now - this.spoke));
      this.turn.spoke = (this.turn.spoke ?? 0) + this.spoke - seconds;
    }
    this.turn.spoke += seconds;
    this.write(this.turn, `spoke for ${this.turn.spoke.toFixed(1)} s`);
  }

  model(text, seconds) {
    const said = this.turns.filter((turn) => turn.who === "model").at(-1);
    // The rest of a word belongs to its beginning, whoever has spoken since.
    const goesOn = said && (said === this.turns.at(-1) || !text.startsWith(" "));
    const turn = goesOn ? said : this.add("model", "Model", seconds);
    this.write(turn, turn.text + text);
    this.phrase += text;
    clearTimeout(this.pause);
    if (/[.!?]$/.test(this.phrase)) this.readOut();
    else this.pause = setTimeout(() => this.readOut(), PHRASE_MS);
  }

  readOut() {
    this.spoken.textContent = this.phrase.trim();
    this.phrase = "";
  }

  add(who, name, seconds) {
    const item = document.createElement("li");
    item.className = who;
    const [label, time, words] = ["b", "time", "span"].map((tag) => item.appendChild(document.createElement(tag)));
    label.textContent = name;
    time.textContent = clock(seconds);
    words.className = "words";
    const isAtEnd = this.isAtEnd();
    this.list.append(item);
    if (isAtEnd) this.box.scrollTop = this.box.scrollHeight;
    const turn = { who, name, seconds, text: "", words };
    this.turns.push(turn);
    return turn;
  }

  write(turn, text) {
    const isAtEnd = this.isAtEnd();
    turn.text = turn.words.textContent = text;
    if (isAtEnd) this.box.scrollTop = this.box.scrollHeight;
  }

  // Whoever has scrolled back to read is left there.
  isAtEnd() { return this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight < 40; }

  // As a file: one turn a line.
  file() {
    const lines = this.turns.map(({ who, name, seconds, text }) =>
      `[${clock(seconds)}] ${name}${who === "you" ? ` (${text})` : `: ${text.trim()}`}`);
    return new Blob([lines.join("\n") + "\n"], { type: "text/plain" });
  }
}

const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
