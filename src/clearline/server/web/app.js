// The page itself: what is shown, what is pressed. The conversation is in conversation.js.
import { Activity, QUIETEST } from "./activity.js";
import { Conversation } from "./conversation.js";
import { isAvailable } from "./microphone.js";
import { MOST_MINUTES, Recording } from "./recording.js";
import { Timeline } from "./timeline.js";
import { Transcript } from "./transcript.js";

const HEALTHY_AFTER_MS = 10_000; // without trouble
const SHOW_LINE_MS = 500; // figures that change faster cannot be read

const at = (id) => document.getElementById(id);
const show = (id, text) => { if (at(id).textContent !== text) at(id).textContent = text; };
const ms = (seconds) => `${Math.round(1000 * seconds)} ms`;

const transcript = new Transcript(at("transcript"), at("spoken"));
const timeline = new Timeline(at("timeline"));
let talk = null; // what is going on: {conversation, recording, you, model, frames, ...}
let isStarting = false;

function problem(text) {
  at("problem").hidden = !text;
  show("problem", text);
}

// What the server offers

async function askServer() {
  const token = at("token").value;
  let answer;
  try {
    answer = await fetch("/api/info", { headers: token ? { Authorization: `Bearer ${token}` } : {} });
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  if (answer.status === 401) {
    at("settings").open = true;
    at("token").focus();
    throw new Error("This server asks for a token: enter it under Settings.");
  }
  const facts = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(`The server answers with ${answer.status}: ${facts.error ?? "no reason given"}.`);
  sessionStorage.setItem("token", token);
  offer(facts);
  return facts;
}

function offer(facts) {
  fill(at("model"), Object.keys(facts.models), facts.model);
  fill(at("preset"), facts.presets);
  if (!facts.protocols.includes("opus")) at("sound").value = "pcm";
  describe(facts);
  at("model").onchange = at("preset").onchange = () => describe(facts);
}

function fill(select, names, chosen) {
  for (const name of names) {
    if (![...select.options].some((option) => option.value === name)) select.add(new Option(name, name, false, name === chosen));
  }
}

// What was chosen. The server tells each model's own settings, not those of every preset.
function describe({ models }) {
  const name = at("model").value, model = models[name];
  show("about", `Model ${name}: ${model.step_ms} ms of work for every 80 ms of sound`
    + (model.keeps_up ? "" : ". Slower than real time on this machine: expect gaps."));
  for (const [id, field] of [["seed", "seed"], ["temperature", "temperature"], ["text-temperature", "text_temperature"]]) {
    at(id).placeholder = at("preset").value === "" ? model[field] : "the preset's";
  }
}

function wishes() {
  const settings = {};
  const names = { preset: "preset", seed: "seed", temperature: "temperature", text_temperature: "text-temperature" };
  for (const [name, id] of Object.entries(names)) if (at(id).value !== "") settings[name] = at(id).value;
  if (at("model").length > 1) settings.model = at("model").value;
  return { settings, token: at("token").value, codec: at("sound").value, headphones: at("headphones").checked };
}

// One conversation, from the button to the downloads

async function start() {
  problem("");
  if (!at("wishes").checkValidity()) {
    at("settings").open = true;
    at("wishes").reportValidity();
    return;
  }
  show("state", "Asking the server …");
  const facts = await askServer();
  show("state", "Waiting for the microphone: please allow it");
  transcript.clear();
  timeline.clear();
  at("empty").hidden = false;
  at("downloads").hidden = true;
  const wish = wishes();
  talk = {
    facts, frames: 0, you: new Activity(), model: new Activity(), // what was heard and said so far
    line: null, lineShown: 0, dry: 0, late: 0, troubleAt: -Infinity, // and how
  };
  if (at("record").checked) {
    talk.recording = new Recording(facts, { model: at("model").value, settings: wish.settings, page: location.origin });
  }
  talk.conversation = new Conversation(facts, wish, { message, heard, said, line, ended });
  await talk.conversation.open();
  at("fields").disabled = true;
  show("start", "Stop");
  at("mute").disabled = false;
  show("codec", talk.conversation.codec.constructor.title);
  show("state", "Connecting …");
}

const seconds = () => talk.frames * talk.facts.frame_size / talk.facts.sample_rate;

function heard(samples) {
  const { you, model, facts } = talk;
  talk.frames += 1;
  you.hear(samples);
  record(samples);
  meter("you", you);
  transcript.user(you.speaking, seconds(), facts.frame_size / facts.sample_rate);
  const dry = talk.line?.dry ?? 0;
  timeline.add(you, model, dry > talk.dry);
  if (dry > talk.dry) trouble({ type: "ran_dry", times: dry });
  talk.dry = dry;
}

function record(samples) {
  const { recording } = talk;
  if (!recording || recording.isFull) return;
  recording.hear(samples);
  if (recording.isFull) problem(`The recording is full after ${MOST_MINUTES} minutes: what comes now is not in it.`);
}

function said(samples) {
  talk.recording?.say(samples);
  meter("it", talk.model.hear(samples));
}

function message(news) {
  talk.recording?.event(news);
  if (news.type === "ready") {
    show("state", `Talking: session ${news.session}, seed ${news.seed}`);
    show("health", "The line is healthy");
  }
  if (news.type === "text") {
    at("empty").hidden = true;
    transcript.model(news.text, seconds());
  }
  if (news.type === "notice") problem(news.message);
  if (news.type === "stats") stats(news);
}

function stats(news) {
  const late = news.missed + news.stalls;
  if (late > talk.late) trouble();
  talk.late = late;
  show("missed", `${news.missed} of ${news.frames}`);
  show("underruns", `${news.underruns}`);
  show("stalls", `${news.stalls}`);
  show("step", `${news.step_ms} ms, worst ${news.worst_step_ms}`);
  if (performance.now() - talk.troubleAt > HEALTHY_AFTER_MS) health(true);
}

function line(figures) {
  talk.line = figures;
  const now = performance.now();
  const elapsed = now - talk.lineShown;
  if (elapsed < SHOW_LINE_MS) return;
  show("delay", ms(figures.delay));
  show("held", ms(figures.target));
  show("dry", `${figures.dry}`);
  if (talk.lineShown) {
    const rate = (bytes, before) => Math.round(8 * (bytes - before) / elapsed);
    const up = rate(figures.up, talk.up), down = rate(figures.down, talk.down);
    show("rates", `${up} and ${down} kbit/s`);
  }
  if (figures.isBehind) problem("This machine is too slow for Opus just now: choose PCM under Settings.");
  if (figures.dropped) problem("The network is too slow for your sound: parts of it are not sent.");
  Object.assign(talk, { lineShown: now, up: figures.up, down: figures.down });
}

function trouble(event) {
  if (event) talk.recording?.event(event);
  talk.troubleAt = performance.now();
  health(false);
}

function health(isGood) {
  show("health", isGood ? "The line is healthy" : "The line has trouble: see the counts below");
  at("health").classList.toggle("bad", !isGood);
}

function meter(id, { level, speaking }) {
  at(id).value = level;
  show(`${id}-speaking`, speaking ? "speaking" : "silent");
}

function ended(text) {
  const { recording } = talk;
  talk = null;
  rest();
  show("state", text ? "Not connected" : "The conversation has ended");
  show("health", "No conversation now");
  at("health").classList.remove("bad");
  problem(text);
  if (recording) keep(recording);
}

function rest() {
  show("start", "Start talking");
  at("mute").disabled = true;
  at("mute").setAttribute("aria-pressed", "false");
  at("fields").disabled = false;
  for (const id of ["you", "it"]) meter(id, { level: QUIETEST, speaking: false });
}

function keep(recording) {
  const files = { wav: ["wav", recording.wav()], text: ["txt", transcript.file()], trace: ["json", recording.trace()] };
  const name = `clearline-${new Date(recording.started).toISOString().slice(0, 19).replaceAll(":", "")}`;
  for (const [id, [ending, file]] of Object.entries(files)) {
    URL.revokeObjectURL(at(id).href);
    at(id).href = URL.createObjectURL(file);
    at(id).download = `${name}.${ending}`;
  }
  at("downloads").hidden = false;
}

// What is pressed

at("start").onclick = async () => {
  if (isStarting) return;
  if (talk) {
    show("state", "Ending …");
    return talk.conversation.stop();
  }
  isStarting = true;
  try {
    await start();
  } catch (error) {
    talk = null;
    rest();
    show("state", "Not connected");
    problem(error.message);
  } finally {
    isStarting = false;
  }
};

at("mute").onclick = () => {
  if (!talk) return;
  talk.conversation.muted = !talk.conversation.muted;
  at("mute").setAttribute("aria-pressed", String(talk.conversation.muted));
};

at("wishes").onsubmit = (event) => event.preventDefault();

// At the beginning

function explainInsecure() {
  at("insecure").hidden = false;
  at("start").disabled = true;
  show("origin", location.origin);
  const port = location.port || "80";
  show("https", `https://${location.host}`);
  at("https").href = `https://${location.host}/`;
  show("tunnel", `ssh -L ${port}:localhost:${port} ${location.hostname}`);
  show("local", `http://localhost:${port}`);
  at("local").href = `http://localhost:${port}/`;
}

// A token given as #token=... is kept for this tab and taken out of the address.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem("token", given);
  history.replaceState(null, "", location.pathname);
}
at("token").value = sessionStorage.getItem("token") ?? "";
at("settings").open = matchMedia("(min-width: 60rem)").matches;
if (!isAvailable()) explainInsecure();
askServer().catch((error) => problem(error.message));
