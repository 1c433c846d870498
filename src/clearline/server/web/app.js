// The page: one button, one WebSocket (see docs/protocols.md), two AudioWorklets.
import { Recording } from "/web/recording.js";

const at = (id) => document.getElementById(id);
const FULL_SCALE = 32768;
const SEND_AT_MOST = 500_000; // bytes waiting to be sent: ten seconds of sound; what comes then is dropped

let line = null; // the conversation that is going on

// A token given as #token=... is kept for this tab and taken out of the address.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem("token", given);
  history.replaceState(null, "", location.pathname);
}
at("token").value = sessionStorage.getItem("token") ?? "";

function problem(text) {
  at("problem").hidden = !text;
  at("problem").textContent = text;
}

function state(text) { at("state").textContent = text; }

async function info() {
  const token = at("token").value;
  const answer = await fetch("/api/info", { headers: token ? { Authorization: `Bearer ${token}` } : {} });
  if (answer.status === 401) throw new Error("This server asks for a token: enter it under Settings.");
  if (!answer.ok) throw new Error(`The server answers with ${answer.status}: ${(await answer.json()).error ?? ""}`);
  sessionStorage.setItem("token", token);
  return answer.json();
}

function fillSettings(facts) {
  at("model").textContent = `Model ${facts.model}, ${facts.step_ms} ms of work for every 80 ms of sound`;
  if (!facts.keeps_up) problem("This machine is slower than real time with this model: expect gaps.");
  for (const name of facts.presets) {
    if (![...at("preset").options].some((option) => option.value === name)) at("preset").add(new Option(name, name));
  }
  at("seed").placeholder = facts.seed;
  at("temperature").placeholder = facts.temperature;
  at("text-temperature").placeholder = facts.text_temperature;
}

function address() {
  const query = new URLSearchParams();
  for (const [name, id] of [["preset", "preset"], ["seed", "seed"], ["temperature", "temperature"],
    ["text_temperature", "text-temperature"], ["token", "token"]]) {
    if (at(id).value !== "") query.set(name, at(id).value);
  }
  return `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/pcm?${query}`;
}

async function microphone() {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Error(`Browsers give the microphone only to pages from https:// or from localhost. This page is ${location.origin}: `
      + "start the server with --tls-self-signed (the browser will warn once), or reach it through an SSH tunnel "
      + "(ssh -L 8998:localhost:8998 …) at http://localhost:8998.");
  }
  try {
    return await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true },
    });
  } catch (error) {
    const why = { NotAllowedError: "The microphone was not allowed: allow it in the address bar, then start again.",
      NotFoundError: "There is no microphone.", NotReadableError: "Another program holds the microphone." };
    throw new Error(why[error.name] ?? `The microphone cannot be used: ${error.message}`);
  }
}

const decibels = (pcm) => 20 * Math.log10(Math.max(Math.sqrt(pcm.reduce((sum, x) => sum + x * x, 0) / pcm.length), 1e-5));

async function start() {
  problem("");
  at("text").textContent = "";
  const facts = await info();
  fillSettings(facts);
  const stream = await microphone();
  const context = new AudioContext({ sampleRate: facts.sample_rate });
  line = { stream, context, muted: false, sent: [], socket: null, recording: null };
  await context.audioWorklet.addModule("/web/capture.js");
  await context.audioWorklet.addModule("/web/player.js");
  const capture = new AudioWorkletNode(context, "capture", { processorOptions: { frameSize: facts.frame_size } });
  const player = new AudioWorkletNode(context, "player", { numberOfInputs: 0, outputChannelCount: [1] });
  if (at("record").checked) line.recording = new Recording(facts.sample_rate, facts.frame_size);
  context.createMediaStreamSource(stream).connect(capture);
  capture.connect(context.destination); // it outputs silence; what leads nowhere may not be run at all
  player.connect(context.destination);
  player.port.onmessage = ({ data }) => {
    line && (line.held = data.waiting);
    at("dry").textContent = data.dry;
    at("buffer").textContent = `${Math.round(data.waiting * 1000)} ms`;
  };
  capture.port.onmessage = ({ data }) => heard(data);
  await context.resume();
  connect(player);
  at("start").textContent = "Stop";
  at("mute").disabled = false;
}

function heard(frame) {
  if (!line || line.socket?.readyState !== WebSocket.OPEN || line.socket.bufferedAmount > SEND_AT_MOST) return;
  if (line.muted) frame.fill(0); // silence keeps the model's clock going
  at("you").value = decibels(frame);
  const pcm = Int16Array.from(frame, (x) => Math.max(-FULL_SCALE, Math.min(FULL_SCALE - 1, Math.round(x * FULL_SCALE))));
  line.socket.send(pcm.buffer);
  line.sent.push(performance.now());
  line.recording?.hear(pcm);
}

function connect(player) {
  const socket = line.socket = new WebSocket(address());
  socket.binaryType = "arraybuffer";
  let told = "";
  socket.onopen = () => state("connected, waiting to be let in");
  socket.onmessage = ({ data }) => {
    if (data instanceof ArrayBuffer) return said(new Int16Array(data), player);
    const message = JSON.parse(data);
    line?.recording?.event(message);
    if (message.type === "ready") state(`talking, session ${message.session}, seed ${message.seed}`);
    if (message.type === "text") at("text").textContent += message.text;
    if (message.type === "notice") problem(message.message);
    if (message.type === "error") told = message.message;
    if (message.type === "stats") {
      at("step").textContent = `${message.worst_step_ms} ms`;
      at("missed").textContent = message.missed;
    }
    if (message.type === "first_sound") line?.sent.splice(0, message.frame); // the frames before it have no reply
  };
  socket.onclose = (event) => {
    if (!line || line.socket !== socket) return;
    stop();
    if (told || event.code !== 1000) problem(told || `The connection was lost (${event.code}).`);
  };
}

function said(pcm, player) {
  const samples = Float32Array.from(pcm, (x) => x / FULL_SCALE);
  at("it").value = decibels(samples);
  player.port.postMessage(samples);
  const sent = line.sent.shift();
  if (sent !== undefined) at("delay").textContent = `${Math.round(performance.now() - sent + 1000 * (line.held ?? 0)) + 80} ms`;
  line.recording?.say(pcm);
}

function stop() {
  const ended = line;
  line = null;
  at("start").textContent = "Start talking";
  at("mute").disabled = true;
  setMuted(false);
  state("not connected");
  if (!ended) return;
  ended.stream.getTracks().forEach((track) => track.stop());
  ended.socket?.close();
  ended.context.close();
  for (const id of ["you", "it"]) at(id).value = -60;
  if (ended.recording) offer(ended.recording);
}

function offer(recording) {
  for (const id of ["wav", "transcript", "trace"]) {
    if (at(id).href) URL.revokeObjectURL(at(id).href);
    at(id).href = URL.createObjectURL(recording[id]());
  }
  at("downloads").hidden = false;
}

function setMuted(muted) {
  if (line) line.muted = muted;
  at("mute").setAttribute("aria-pressed", String(muted));
}

at("start").onclick = async () => {
  if (line) return stop();
  at("start").disabled = true;
  try {
    await start();
  } catch (error) {
    stop();
    problem(error.message);
  } finally {
    at("start").disabled = false;
  }
};
at("mute").onclick = () => setMuted(!line?.muted);
info().then(fillSettings).catch((error) => problem(error.message));
if (!navigator.mediaDevices?.getUserMedia) microphone().catch((error) => problem(error.message));
