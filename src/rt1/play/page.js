// The page of rt1 play: shows the newest view that the server sends, and sends what is asked for.

const element = (id) => document.getElementById(id);
const decoder = new TextDecoder();
const WORDS = {
  opening: "opening the environment",
  stopped: "stopped",
  running: "running",
  over: "episode over",
  failed: "failed; Reset opens it again",
};
const HEAT = [255, 196, 0]; // marks attention on bright and dark images alike
const RETRY_MS = 1000;

let socket = null;
let facts = null;
let latest = null; // newest message not drawn yet
let drawing = false;
let shown = {}; // values of the server that the controls show already
let chosenMap = -1;
let pace = []; // [time, step] of the last two seconds
let last = null; // what is drawn, for another drawing when a map is chosen

// Connection

function connect() {
  socket = new WebSocket(`ws://${location.host}/live`);
  socket.binaryType = "arraybuffer";
  socket.onmessage = (event) => {
    if (typeof event.data === "string") {
      build(JSON.parse(event.data));
    } else {
      latest = event.data;
      schedule();
    }
  };
  socket.onclose = (event) => {
    complain(event.code === 1008 ? event.reason : "no connection. Does rt1 play still run? Trying again.");
    element("phase").textContent = "no connection";
    setTimeout(connect, RETRY_MS);
  };
}

function send(command, value = null) {
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ command, value }));
}

function complain(line) {
  const box = element("error");
  if (box.textContent !== (line ?? "")) box.textContent = line ?? "";
  box.hidden = !line;
}

// What does not change while the page is open

function create(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function build(data) {
  facts = data;
  shown = {};
  element("title").textContent = facts.title;
  document.title = `rt1 play · ${facts.title}`;
  element("task").replaceChildren(...facts.tasks.map((task) => new Option(task.name, task.name)));
  element("dimensions").replaceChildren(...facts.dimensions.map(dimension));
  const maps = Array.from({ length: facts.maps }, (_, index) => mapChoice(index));
  element("maps").replaceChildren(...maps, mapChoice(-1));
  document.querySelector("main").classList.toggle("many", facts.dimensions.length > 6); // then the maps stand beside
}

function dimension(spec) {
  const canvas = create("canvas");
  canvas.ariaHidden = "true";
  const bounds = create("div", "bounds", create("span", "", number(spec.low)), create("span", "", number(spec.high)));
  return create("li", "", create("div", "named", create("b", "", spec.name), create("span", "value", "–")), canvas, bounds);
}

function mapChoice(index) {
  const input = create("input");
  Object.assign(input, { type: "radio", name: "map", checked: index === chosenMap });
  input.onchange = () => {
    chosenMap = index;
    if (last) draw(last);
  };
  if (index < 0) return create("label", "", input, create("div", "box none", "none"), "image alone");
  const label = create("label", "", input, create("div", "box", create("canvas")), create("span", "", `map ${index + 1}`));
  return label;
}

// Drawing: the newest view only, at most once per frame of the screen

function schedule() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(async () => {
    const message = latest;
    latest = null;
    try {
      const before = last;
      last = await read(message);
      draw(last);
      for (const name of ["image", "scene", "seen"]) before?.[name]?.close(); // their memory is not freed soon by itself
    } finally {
      drawing = false;
      if (latest) schedule();
    }
  });
}

async function read(message) {
  const length = new DataView(message).getUint32(0);
  const state = JSON.parse(decoder.decode(new Uint8Array(message, 4, length)));
  let start = 4 + length;
  const take = (bytes) => picture(message.slice(start, (start += bytes)));
  const pictures = [take(state.image_bytes), take(state.picture_bytes), take(message.byteLength)];
  const [image, scene, seen] = await Promise.all(pictures);
  return { state, image, scene, seen };
}

const picture = (bytes) => (bytes.byteLength ? createImageBitmap(new Blob([bytes], { type: "image/jpeg" })) : null);

function draw({ state, image, scene, seen }) {
  if (!facts) return;
  complain(state.error);
  drawControls(state);
  drawFacts(state, image, scene);
  const { decision } = state;
  facts.dimensions.forEach((spec, index) => drawDimension(spec, index, decision));
  drawMaps(decision, seen);
  element("input").hidden = !scene;
  if (scene) drawPicture(element("input"), image, null, false);
  const mapped = decision && chosenMap >= 0;
  drawPicture(element("image"), mapped ? seen : (scene ?? image), mapped ? decision.attention[chosenMap] : null);
}

/** Show a value of the server in a control, unless somebody is changing it there. */
function follow(control, value) {
  if (shown[control.id] === value || document.activeElement === control) return;
  shown[control.id] = value;
  control.value = value;
}

function drawControls(state) {
  if (shown.sentences !== state.task) {
    shown.sentences = state.task;
    const task = facts.tasks.find(({ name }) => name === state.task);
    element("sentences").replaceChildren(...task.sentences.map((sentence) => new Option(sentence)));
  }
  follow(element("task"), state.task);
  follow(element("instruction"), state.instruction ?? "");
  follow(element("number"), String(state.start));
  follow(element("speed"), String(state.speed));
}

function write(id, text) {
  if (element(id).textContent !== text) element(id).textContent = text;
}

function drawFacts(state, image, scene) {
  write("phase", WORDS[state.phase]);
  write("success", state.success ? "reached" : "not reached");
  element("lamp").classList.toggle("on", state.success);
  write("step", `${state.step} of at most ${state.max_steps}`);
  const { latency } = state;
  write("latency", latency ? `${ms(latency.last)} · p50 ${ms(latency.p50)} · p95 ${ms(latency.p95)}` : "–");
  write("current", state.instruction ?? "none yet");
  write("rate", `${rate(state)} of ${number(state.control_rate * state.speed)} Hz`);
  const size = image ? `the policy's input, ${image.width} × ${image.height} pixels` : "no image";
  const left = scene ? "Left: the scene. Right: " : "";
  write("caption", `${left}${size}. It remembers ${state.remembered} of at most ${facts.window} images.`);
}

function rate(state) {
  const now = performance.now();
  const before = pace.at(-1);
  if (state.phase !== "running" || (before && state.step < before[1])) pace = [];
  if (state.phase === "running" && pace.at(-1)?.[1] !== state.step) pace.push([now, state.step]);
  pace = pace.filter(([time]) => now - time < 2000);
  if (pace.length < 2) return "–";
  const [from, to] = [pace[0], pace.at(-1)];
  return ((1000 * (to[1] - from[1])) / (to[0] - from[0])).toFixed(1);
}

const ms = (value) => `${value.toFixed(1)} ms`;
const number = (value) => String(Number(value.toPrecision(3))).replace("-", "−");

/** Fit a canvas to the screen's pixels and return its empty context with its size. */
function paper(canvas, ratio = null) {
  const width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
  const height = ratio ? Math.round(width * ratio) : Math.max(1, Math.round(canvas.clientHeight * devicePixelRatio));
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

function drawDimension(spec, index, decision) {
  const item = element("dimensions").children[index];
  const { context, width, height } = paper(item.querySelector("canvas"));
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name);
  const foot = Math.round(height / 5); // height of the bar; the bins stand above it
  context.fillStyle = colour("--line");
  context.fillRect(0, height - foot, width, foot);
  if (!decision) {
    item.querySelector(".value").textContent = "–";
    return;
  }
  const bins = spec.choices || facts.bins;
  const probabilities = decision.probabilities[index].slice(0, bins);
  const [value, chosen] = [decision.action[index], decision.bins[index]];
  const sure = Math.round(100 * decision.probabilities[index][chosen]);
  const what = spec.choices ? (chosen < bins ? "a choice" : `bin ${chosen}, no choice`) : `bin ${chosen} of ${bins}`;
  item.querySelector(".value").textContent = `${number(value)} · ${what} · ${sure} %`;
  const step = width / bins;
  const scale = (height - foot - 4) / Math.max(...probabilities, 1e-6);
  context.fillStyle = colour("--quiet");
  probabilities.forEach((p, bin) => context.fillRect(bin * step, height - foot - 2 - p * scale, Math.max(step, 1), p * scale));
  context.fillStyle = colour("--swapped");
  const mark = Math.max(step, 3 * devicePixelRatio);
  if (chosen < bins) context.fillRect((chosen + 0.5) * step - mark / 2, 0, mark, height - foot - 2);
  const place = (v) => (spec.choices ? (v + 0.5) / bins : (v - spec.low) / (spec.high - spec.low)) * width;
  const zero = Math.min(Math.max(spec.choices ? 0 : place(0), 0), width);
  context.fillStyle = colour("--policy");
  context.fillRect(Math.min(zero, place(value)), height - foot, Math.max(Math.abs(place(value) - zero), 2), foot);
}

function drawMaps(decision, seen) {
  const labels = [...element("maps").children].slice(0, facts.maps);
  labels.forEach((label, index) => {
    const map = decision?.attention[index];
    drawPicture(label.querySelector("canvas"), seen, map);
    const most = map ? ` · ${Math.round(100 * Math.max(...map.flat()))} %` : "";
    label.querySelector("span").textContent = `map ${index + 1}${most}`;
  });
}

/** Draw an image, and a map on it: dark where its weight is 0, bare and tinted where it is largest. */
function drawPicture(canvas, image, map, smooth = true) {
  const { context, width, height } = paper(canvas, image ? image.height / image.width : 1);
  if (!image) return;
  context.imageSmoothingEnabled = smooth;
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, width, height);
  if (!map) return;
  context.drawImage(heat(map, (share) => [0, 0, 0, 120 * (1 - share)]), 0, 0, width, height);
  context.drawImage(heat(map, (share) => [...HEAT, 150 * share]), 0, 0, width, height);
}

/** Return a small picture with one pixel for each weight, which the canvas smooths as it enlarges it. */
function heat(map, colour) {
  const picture = new OffscreenCanvas(map[0].length, map.length);
  const context = picture.getContext("2d");
  const pixels = context.createImageData(picture.width, picture.height);
  const most = Math.max(...map.flat(), 1e-6);
  map.flat().forEach((weight, index) => pixels.data.set(colour(weight / most), 4 * index));
  context.putImageData(pixels, 0, 0);
  return picture;
}

// Controls

element("start").onclick = () => send("start");
element("stop").onclick = () => send("stop");
element("reset").onclick = () => {
  if (element("number").reportValidity()) send("reset", Number(element("number").value));
};
element("task").onchange = ({ target }) => send("task", target.value);
element("speed").onchange = ({ target }) => send("speed", Number(target.value));
element("instruction-form").onsubmit = (event) => {
  event.preventDefault();
  send("instruct", element("instruction").value);
};
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") send("stop");
});
addEventListener("resize", () => last && draw(last));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => last && draw(last));

connect();
