// Classify a picture in the browser: read it, hand its bytes to the network, show the classes. No network at run time.
import * as ort from "./runtime/ort.wasm.min.mjs";

const TEXT = {
  en: {
    input: "A picture", tabFile: "File", tabDraw: "Draw", choose: "Choose a picture", orDrop: "or drop or paste one here",
    clear: "Clear", dark: "white on black", keys: "With the keyboard: arrows move the pen, space puts it down and lifts it.",
    answer: "Classes", private: "The picture stays in this browser; nothing is sent anywhere.", card: "Model card",
    licence: "Licence of the runtime",
    canvas: "A field to draw on. Arrow keys move the pen, Space puts it down or lifts it.",
    loading: "loading the network…", ready: "ready",
    working: "working…", empty: "Give a picture, and its classes stand here.", unreadable: "This picture cannot be read.",
    failed: "The network cannot be loaded", large: "made smaller first: more than {n} pixels a side",
    took: "{ms} ms, picture {w} × {h}", checked: "Checked here: {n} golden pictures, largest logit difference {d}.",
    wrong: "This browser gives other answers than were proved: largest logit difference {d}.",
    facts: "{model}, {precision}, {size} · network {a} MB, runtime {b} MB · {accuracy}danlu {version}, {runtime}",
    accuracy: "accuracy {p} % on {n} test pictures · ", title: "What is in the picture?", other: "中文", otherLang: "zh",
  },
  zh: {
    input: "图片", tabFile: "文件", tabDraw: "手绘", choose: "选择一张图片", orDrop: "或拖放、粘贴到这里",
    clear: "清空", dark: "黑底白字", keys: "用键盘：方向键移动画笔，空格键落笔或抬笔。",
    answer: "类别", private: "图片只留在本浏览器中，不会发送到任何地方。", card: "模型卡片",
    licence: "运行库许可证",
    canvas: "手绘区域。方向键移动画笔，空格键落笔或抬笔。",
    loading: "正在加载网络……", ready: "就绪",
    working: "计算中……", empty: "给出一张图片，类别会显示在这里。", unreadable: "无法读取这张图片。",
    failed: "无法加载网络", large: "每边超过 {n} 像素，已先缩小",
    took: "{ms} 毫秒，图片 {w} × {h}", checked: "已在本浏览器核对：{n} 张标准图片，logit 最大差值 {d}。",
    wrong: "本浏览器给出的结果与导出时证明的不同：logit 最大差值 {d}。",
    facts: "{model}，{precision}，{size} · 网络 {a} MB，运行库 {b} MB · {accuracy}danlu {version}，{runtime}",
    accuracy: "{n} 张测试图片上准确率 {p} % · ", title: "图片里是什么？", other: "English", otherLang: "en",
  },
};
const LARGEST = 4096, SHOWN = 5, TOLERANCE = 1e-3;
const at = (id) => document.getElementById(id);
let language = (navigator.language || "en").toLowerCase().startsWith("zh") ? "zh" : "en";
let facts = null, session = null, busy = null, told = ["loading", {}], check = null, tab = "file";
const answers = { file: null, draw: null };  // each tab shows its own

function text(key, values = {}) {
  return TEXT[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function say(key, values = {}, wrong = false) {
  told = [key, values, wrong];
  at("status").textContent = text(key, values) + (values.why ? `: ${values.why}` : "");
  at("status").classList.toggle("wrong", wrong);
}

// Said when nothing else is: a browser that computes otherwise is told of with every answer.
function rest(key = "ready", values = {}) {
  if (check && check.worst > TOLERANCE) say("wrong", { d: check.worst.toExponential(1) }, true);
  else say(key, values);
}

function translate() {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", text(element.dataset.label));
  at("language").textContent = text("other");
  at("language").lang = text("otherLang");
  at("title").textContent = text("title");
  document.title = facts ? `${text("title")} · ${facts.model}` : text("title");
  say(...told);
  showFacts();
  showAnswer();
}

function showFacts() {
  if (!facts) return;
  const mega = (bytes) => (bytes / 1e6).toFixed(bytes < 1e6 ? 2 : 1);
  const accuracy = facts.accuracy == null ? "" : text("accuracy", { p: (100 * facts.accuracy).toFixed(2), n: facts.pictures });
  at("facts").textContent = text("facts", {
    ...facts, size: facts.size.join(" × "), a: mega(facts.bytes.model), b: mega(facts.bytes.runtime), accuracy,
  });
  if (check) {
    at("check").textContent = text(check.worst <= TOLERANCE ? "checked" : "wrong", { n: check.n, d: check.worst.toExponential(1) });
  }
}

function showAnswer() {
  const list = at("answer"), last = answers[tab];
  list.replaceChildren();
  if (!last) {
    const item = document.createElement("li");
    item.className = "small";
    item.textContent = text("empty");
    list.append(item);
    at("timing").textContent = "";
    return;
  }
  const order = [...last.probabilities.keys()].sort((a, b) => last.probabilities[b] - last.probabilities[a] || a - b);
  for (const index of order.slice(0, SHOWN)) {
    const share = last.probabilities[index], item = document.createElement("li");
    const name = document.createElement("span"), figure = document.createElement("span"), meter = document.createElement("meter");
    name.className = "name";
    name.textContent = facts.classes[index];
    figure.className = "share";
    figure.textContent = `${(100 * share).toFixed(1)} %`;
    meter.value = share;
    meter.setAttribute("aria-label", facts.classes[index]);
    item.append(name, figure, meter);
    list.append(item);
  }
  at("timing").textContent = text("took", { ms: last.ms.toFixed(0), w: last.width, h: last.height });
}

// RGBA to what the network is fed, by the same whole-number arithmetic as in training: over white, luma of ITU-R 601.
function pixelsOf(data, width, height) {
  const count = width * height, out = new Uint8Array(count * facts.channels);
  for (let i = 0; i < count; i++) {
    const alpha = data[4 * i + 3];
    const over = (value) => alpha === 255 ? value : Math.round((value * alpha + 255 * (255 - alpha)) / 255);
    const [r, g, b] = [over(data[4 * i]), over(data[4 * i + 1]), over(data[4 * i + 2])];
    if (facts.channels === 3) out.set([r, g, b], 3 * i);
    else out[i] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
  }
  return out;
}

async function run(pixels, count, height, width) {
  const tensor = new ort.Tensor("uint8", pixels, [count, height, width, facts.channels]);
  return session.run({ [session.inputNames[0]]: tensor });
}

async function classify(image, width, height, note) {
  const scale = Math.min(1, LARGEST / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const pixels = pixelsOf(context.getImageData(0, 0, canvas.width, canvas.height).data, canvas.width, canvas.height);
  say("working");
  const begin = performance.now();
  const found = await run(pixels, 1, canvas.height, canvas.width);
  const ms = performance.now() - begin;
  if (scale < 1) rest("large", { n: LARGEST }); else rest();
  return { probabilities: Array.from(found.probabilities.data), ms, width, height };
}

// One picture after the other; a picture that fails leaves the page usable.
function later(work) {
  busy = busy.then(work).catch((error) => {
    console.error(error);
    say("unreadable", {}, true);
  });
  return busy;
}

function take(blob) {
  return later(async () => {
    if (!session) return;
    answers.file = null;
    showAnswer();
    const picture = await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
    const old = at("shown").src;
    at("shown").src = URL.createObjectURL(blob);
    at("shown").alt = blob.name || "";
    at("shown").classList.toggle("small-picture", Math.max(picture.width, picture.height) <= 64);
    at("shown").hidden = false;
    at("hint").hidden = true;
    if (old) URL.revokeObjectURL(old);
    answers.file = await classify(picture, picture.width, picture.height);
    showAnswer();
  });
}

function show(chosen) {
  tab = chosen;
  for (const name of ["file", "draw"]) {
    at(`tab-${name}`).setAttribute("aria-selected", String(name === tab));
    at(`tab-${name}`).tabIndex = name === tab ? 0 : -1;
    at(`panel-${name}`).hidden = name !== tab;
  }
  showAnswer();
}

// The network is given the sheet; the canvas shows the pen of the keyboard above it.
const sheet = document.createElement("canvas"), pad = { keyboard: false, down: false, at: null, stroke: 0, sheets: 0 };

function repaint() {
  const view = at("canvas").getContext("2d");
  view.drawImage(sheet, 0, 0);
  if (!pad.keyboard) return;
  view.lineWidth = 2;
  view.strokeStyle = pad.down ? "#d2452c" : "#8f887b";
  view.beginPath();
  view.arc(...pad.at, 12, 0, 2 * Math.PI);
  view.stroke();
}

function clear() {
  const context = sheet.getContext("2d", { willReadFrequently: true });
  context.fillStyle = at("dark").checked ? "#000" : "#fff";
  context.fillRect(0, 0, sheet.width, sheet.height);
  Object.assign(pad, { down: false, at: [140, 140], stroke: pad.stroke + 1, sheets: pad.sheets + 1 });
  answers.draw = null;
  repaint();
  showAnswer();
}

function line(from, to) {
  const context = sheet.getContext("2d");
  context.strokeStyle = at("dark").checked ? "#fff" : "#000";
  context.lineWidth = 24;
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  context.moveTo(...from);
  context.lineTo(...to);
  context.stroke();
  repaint();
  const mine = ++pad.stroke;
  setTimeout(() => later(() => answerDrawing(mine)), 150);
}

async function answerDrawing(stroke) {
  if (stroke !== pad.stroke || !session) return;
  const sheets = pad.sheets, found = await classify(sheet, sheet.width, sheet.height);
  if (sheets === pad.sheets) answers.draw = found;  // else it was cleared meanwhile
  showAnswer();
}

function drawing() {
  const canvas = at("canvas");
  let pen = null;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pad.keyboard = pad.down = false;
    pen = place(event);
    line(pen, pen);
  });
  canvas.addEventListener("pointermove", (event) => { if (pen) { const to = place(event); line(pen, to); pen = to; } });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { pen = null; });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-12, 0], ArrowRight: [12, 0], ArrowUp: [0, -12], ArrowDown: [0, 12] }[event.key];
    if (!step && event.key !== " ") return;
    event.preventDefault();
    const from = pad.at;
    pad.keyboard = true;
    if (step) pad.at = from.map((value, axis) => Math.min(268, Math.max(12, value + step[axis])));
    else pad.down = !pad.down;
    if (pad.down) line(from, pad.at); else repaint();
  });
  canvas.addEventListener("blur", () => { pad.keyboard = pad.down = false; repaint(); });
  at("clear").addEventListener("click", clear);
  at("dark").addEventListener("change", clear);
  at("dark").checked = facts.channels === 1;
  [sheet.width, sheet.height] = [canvas.width, canvas.height];
  clear();
}

function listen() {
  at("language").addEventListener("click", () => { language = language === "en" ? "zh" : "en"; translate(); });
  at("file").addEventListener("change", (event) => { if (event.target.files[0]) take(event.target.files[0]); });
  for (const name of ["file", "draw"]) {
    at(`tab-${name}`).addEventListener("click", () => show(name));
    at(`tab-${name}`).addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      const other = name === "file" ? "draw" : "file";
      show(other);
      at(`tab-${other}`).focus();
    });
  }
  document.addEventListener("dragover", (event) => { event.preventDefault(); at("drop").classList.add("over"); });
  document.addEventListener("dragleave", () => at("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    at("drop").classList.remove("over");
    if (event.dataTransfer.files[0]) { show("file"); take(event.dataTransfer.files[0]); }
  });
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files][0];
    if (file) { show("file"); take(file); }
  });
}

// The golden pictures travel with the artifact; this browser has to answer as was proved.
async function checkGolden() {
  const golden = facts.golden;
  if (!golden) return;
  const bytes = Uint8Array.from(atob(golden.pictures), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const pixels = new Uint8Array(await new Response(stream).arrayBuffer());
  const found = await run(pixels, ...golden.shape.slice(0, 3));
  const wanted = golden.logits.flat(), largest = Math.max(...wanted.map(Math.abs), 1e-12);
  const worst = Math.max(...wanted.map((value, i) => Math.abs(value - found.logits.data[i]))) / largest;
  check = { n: golden.shape[0], worst: Number.isFinite(worst) ? worst : Infinity };
}

async function load() {
  try {
    facts = await (await fetch("model.json")).json();
    translate();
    ort.env.wasm.wasmPaths = new URL("./runtime/", import.meta.url).href;
    ort.env.wasm.numThreads = 1;
    session = await ort.InferenceSession.create("model.onnx", { executionProviders: ["wasm"], logSeverityLevel: 3 });
    await checkGolden();
    drawing();
    rest();
    translate();
    document.body.dataset.ready = "yes";
  } catch (error) {
    console.error(error);
    session = null;
    say("failed", { why: String(error.message || error) }, true);
  }
}

translate();
listen();
busy = load();  // a picture given meanwhile waits for it
