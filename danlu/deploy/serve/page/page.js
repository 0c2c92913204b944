"use strict";
(() => {
  const root = document.documentElement;
  const $ = (id) => document.getElementById(id);
  const all = (selector) => Array.from(document.querySelectorAll(selector));
  const chinese = () => root.dataset.lang === "zh";
  // [English, 中文]; names and numbers take the place of {…}. Everything is put in as text, never as markup.
  const WORDS = {
    lead: ["{n} classes; pictures become {w} × {h}.", "{n} 个类别；图片会缩放并裁剪为 {w} × {h}。"],
    gray: ["{n} classes; pictures become grey, {w} × {h}.", "{n} 个类别；图片会转为灰度并缩放裁剪为 {w} × {h}。"],
    times: ["{inference} ms in the network · {decode} ms decoding · {wait} ms waiting · {trip} ms until it was shown",
      "网络计算 {inference} ms · 解码 {decode} ms · 排队 {wait} ms · 到显示共 {trip} ms"],
    spoken: ["{name}, {probability}", "{name}，{probability}"],
    drawn: ["Drawing", "手绘"], pasted: ["Pasted picture", "粘贴的图片"], taken: ["Camera picture", "拍摄的照片"],
    busy: ["The server is busy; it is asked again …", "服务器繁忙，正在重试……"],
    asking: ["The model is asked …", "正在询问模型……"],
    explaining: ["Looking …", "正在计算……"],
    unreachable: ["The server does not answer.", "服务器没有响应。"],
    refused: ["The server says:", "服务器的回答："],
    nothing: ["There is no picture in the clipboard.", "剪贴板里没有图片。"],
    clipboard: ["The browser does not give the clipboard; press Ctrl V instead.", "浏览器不允许读取剪贴板；请直接按 Ctrl V。"],
    nocamera: ["No camera can be used here.", "此处无法使用摄像头。"],
    nopicture: ["That is no picture.", "这不是图片。"],
    activation: ["the share of each place in the score of “{name}”, from the last stage", "来自最后一个阶段：各处对“{name}”得分的贡献"],
    occlusion: ["how much “{name}” loses when the place is hidden", "遮住某处后“{name}”的概率下降多少"],
    for: ["for it", "支持"], against: ["against it", "反对"],
    nomap: ["An activation map needs a network that ends in pooling and one linear layer.", "激活图要求网络以池化加一个线性层结尾。"],
    alt: ["The picture that is classified", "正在分类的图片"],
    choose: ["Show what speaks for {name}", "查看支持 {name} 的依据"],
    f_model: ["Network", "网络"], f_precision: ["Precision", "精度"], f_runtime: ["Runtime", "运行时"],
    f_picture: ["Picture", "图片"], f_classes: ["Classes", "类别数"], f_parity: ["Parity", "一致性"],
    f_accuracy: ["Accuracy", "准确率"], f_data: ["Data hash", "数据哈希"], f_weights: ["Weights hash", "权重哈希"],
    f_version: ["Exported by", "导出工具"], f_calibration: ["Calibration hash", "校准哈希"],
    threads: ["{name}, {n} threads", "{name}，{n} 线程"], thread: ["{name}, one thread", "{name}，单线程"],
    colour: ["{w} × {h}, colour", "{w} × {h}，彩色"], grey: ["{w} × {h}, grey", "{w} × {h}，灰度"],
    parity: ["equal to the trained network on {n} validation pictures: {flips} answers differ",
      "在 {n} 张验证图片上与训练所得网络一致：{flips} 个结果不同"],
    compared: ["compared with the trained network on {n} validation pictures; answers that differ: {flips}",
      "与训练所得网络比较 {n} 张验证图片：{flips} 个结果不同"],
    accuracy: ["{value} on {n} test pictures", "{n} 张测试图片上为 {value}"],
  };
  function say(key, values) {
    const text = WORDS[key][chinese() ? 1 : 0];
    return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
  }
  function make(tag, text, style) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (style) element.className = style;
    return element;
  }
  const count = (value) => value.toLocaleString(chinese() ? "zh-CN" : "en-GB");
  function percent(p) {
    if (p > 0 && p < 0.0005) return "< 0.1 %";
    if (p < 1 && p >= 0.9995) return "> 99.9 %";
    return `${(100 * p).toFixed(1)} %`;
  }

  const state = { card: null, blob: null, name: null, answer: null, trip: 0, method: "", index: null, why: null, run: 0 };

  // Texts that depend on the language and on what happened are written again when either changes.
  function speak(language) {
    root.dataset.lang = language;
    root.lang = language === "zh" ? "zh-Hans" : "en";
    for (const button of all(".languages button")) {
      button.setAttribute("aria-pressed", String(button.dataset.set === language));
    }
    for (const element of all("[data-label-en]")) {
      element.setAttribute("aria-label", chinese() ? element.dataset.labelZh : element.dataset.labelEn);
    }
    showCard();
    showName();
    showAnswer(false);
    showWhy();
  }

  // The server. A token lives as long as the tab, once the server has taken it.
  let token = sessionStorage.getItem("danlu-token");
  class Refused extends Error {}
  async function ask(path, options = {}, tries = 4) {
    const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused(say("unreachable"));
    }
    if (response.status === 503 && tries > 1) {
      tell("busy");
      const seconds = Number(response.headers.get("Retry-After")) || 1;
      await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(seconds, 5)));
      if (options.signal && options.signal.aborted) throw new DOMException("", "AbortError");
      return ask(path, options, tries - 1);
    }
    if (response.status === 401) {
      const wrong = Boolean(token);
      token = null;
      sessionStorage.removeItem("danlu-token");
      askForToken(wrong);
      throw new DOMException("", "AbortError");
    }
    const document = await response.json();
    if (!response.ok) throw new Refused([say("refused"), document.detail, document.mend].filter(Boolean).join("\n"));
    return document;
  }
  function askForToken(wrong) {
    $("token-form").hidden = false;
    $("token-wrong").hidden = !wrong;
    $("work").hidden = $("card").hidden = true;
    $("token").value = "";
    $("token").focus();
  }
  $("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const given = $("token").value.trim();
    // No header can carry other letters, so no server has such a token.
    if (!/^[\x21-\x7e]+$/.test(given)) return askForToken(true);
    token = given;
    return open();
  });

  async function open() {
    try {
      state.card = await ask("/v1/model");
    } catch (error) {
      if (error instanceof Refused) complain(error.message);
      if (error instanceof Refused) $("work").hidden = false;
      return;
    }
    if (token) sessionStorage.setItem("danlu-token", token);
    $("token-form").hidden = true;
    $("work").hidden = $("card").hidden = false;
    $("why").hidden = true;
    showCard();
  }

  function showCard() {
    const card = state.card;
    if (!card) return;
    const { width: w, height: h, channels } = card.picture;
    $("model").textContent = card.model;
    document.title = `${card.model} · 丹炉 Danlu`;
    $("lead").textContent = say(channels === 1 ? "gray" : "lead", { n: count(card.classes.length), w, h });
    const rows = [["f_model", card.model], ["f_precision", card.precision.toUpperCase()]];
    const { name, threads } = card.runtime;
    rows.push(["f_runtime", say(threads === 1 ? "thread" : "threads", { name, n: threads })]);
    rows.push(["f_picture", say(channels === 1 ? "grey" : "colour", { w, h })]);
    rows.push(["f_classes", count(card.classes.length)]);
    const { validation, test } = card.parity;
    if (test && typeof test.accuracy_b === "number") {
      const value = `${(100 * test.accuracy_b).toFixed(2)} %`;
      rows.push(["f_accuracy", say("accuracy", { value, n: count(test.n) })]);
    }
    if (validation) {
      const { n, flips } = validation;
      rows.push(["f_parity", say(flips === 0 ? "parity" : "compared", { n: count(n), flips: count(flips) })]);
    }
    if (card.version) rows.push(["f_version", `danlu ${card.version}`]);
    for (const [key, hash] of Object.entries(card.hashes)) {
      if (`f_${key}` in WORDS) rows.push([`f_${key}`, hash.slice(0, 16), hash]);
    }
    $("facts").replaceChildren(...rows.map(([key, value, whole]) => {
      const row = make("div");
      const described = make("dd");
      described.append(whole ? make("code", value) : make("bdi", value));
      if (whole) described.title = whole;
      row.append(make("dt", say(key)), described);
      return row;
    }));
    const most = card.classes.slice(0, 2000);
    $("all-classes").replaceChildren(...most.map((each) => {
      const item = make("li");
      item.append(make("bdi", each));
      return item;
    }));
    const auth = token ? " -H 'Authorization: Bearer TOKEN'" : "";
    $("command").textContent = `curl -F pictures=@photo.jpg${auth} ${location.origin}/v1/predict`;
    // A link would be followed without the token.
    if (token) for (const link of all("#card a")) link.replaceWith(make("code", link.getAttribute("href")));
    for (const button of all("#methods button")) {
      button.disabled = button.dataset.method !== "" && !card.explanations.includes(button.dataset.method);
    }
  }

  // Pictures come from a file, the clipboard, the camera or the pad; all end here.
  function mode(name) {
    $("stage").dataset.mode = name;
    $("camera-tools").hidden = name !== "camera";
    $("draw-tools").hidden = name !== "draw";
    $("camera").setAttribute("aria-pressed", String(name === "camera"));
    $("draw").setAttribute("aria-pressed", String(name === "draw"));
    if (name !== "camera") stopCamera();
  }
  let shownUrl = null;
  function take(blob, name, keepMode) {
    if (!blob) return;
    state.blob = blob;
    state.name = name;
    state.index = null;
    state.why = null;
    showName();
    if (!keepMode) show();
    paint();
    classify();
  }
  function show() {
    mode("picture");
    if (shownUrl) URL.revokeObjectURL(shownUrl);
    shownUrl = URL.createObjectURL(state.blob);
    const picture = $("shown");
    picture.onload = () => {
      const box = $("stage").getBoundingClientRect();
      const scale = Math.min(box.width / picture.naturalWidth, box.height / picture.naturalHeight);
      picture.classList.toggle("sharp", scale >= 3);
      paint();
    };
    picture.onerror = () => mode("blind");
    picture.src = shownUrl;
    picture.alt = say("alt");
  }
  function showName() {
    const named = { drawn: "drawn", pasted: "pasted", taken: "taken" }[state.name && state.name.key];
    $("named").textContent = named ? say(named) : state.name ? state.name.file : "";
    $("shown").alt = say("alt");
  }

  let asked = null;
  function tell(key) {
    const waiting = $("waiting");
    waiting.replaceChildren(...[["en", 0], ["zh", 1]].map(([style, place]) => make("span", WORDS[key][place], style)));
    waiting.hidden = false;
  }
  function complain(text) {
    const [first, ...rest] = text.split("\n");
    $("problem").replaceChildren(make("span", first), ...rest.map((line) => make("small", line)));
    $("problem").hidden = false;
    $("waiting").hidden = true;
  }
  async function classify() {
    if (asked) asked.abort();
    asked = new AbortController();
    const { signal } = asked;
    $("problem").hidden = $("readable").hidden = true;
    $("answer").setAttribute("aria-busy", "true");
    tell("asking");
    const begin = performance.now();
    try {
      const type = state.blob.type.startsWith("image/") ? state.blob.type : "application/octet-stream";
      const options = { method: "POST", body: state.blob, headers: { "Content-Type": type }, signal };
      const found = await ask("/v1/predict?top=5", options);
      state.answer = found;
      state.trip = performance.now() - begin;
      $("waiting").hidden = true;
      $("readable").hidden = false;
      showAnswer(true);
      if (state.method && $("stage").dataset.mode !== "draw") await explain(signal);
    } catch (error) {
      if (error.name === "AbortError") return;
      state.answer = null;
      showAnswer(false);
      complain(error.message);
    } finally {
      if (!signal.aborted) $("answer").setAttribute("aria-busy", "false");
    }
  }

  // What was cleared has no answer, and none may arrive late.
  const invitation = Array.from($("waiting").childNodes);
  function forget() {
    if (asked) asked.abort();
    state.blob = state.name = state.answer = state.index = state.why = null;
    $("answer").setAttribute("aria-busy", "false");
    $("problem").hidden = true;
    $("waiting").replaceChildren(...invitation);
    $("waiting").hidden = false;
    $("spoken").textContent = "";
    showName();
    showAnswer(false);
    showWhy();
  }

  function showAnswer(aloud) {
    const answer = state.answer;
    const first = answer && answer.predictions[0];
    $("why").hidden = !first;
    $("times").textContent = "";
    if (!first) {
      $("classes").replaceChildren();
      return;
    }
    // Rows are kept, so that focus and the length of a bar move rather than jump.
    const list = $("classes");
    while (list.children.length > first.top.length) list.lastElementChild.remove();
    first.top.forEach((entry, place) => {
      let row = list.children[place];
      if (!row) {
        row = make("li");
        const button = make("button");
        button.type = "button";
        const track = make("span", undefined, "track");
        track.append(make("span", undefined, "fill"));
        button.append(make("bdi"), make("b"), track);
        button.addEventListener("click", () => choose(Number(row.dataset.index)));
        row.append(button);
        list.append(row);
      }
      row.dataset.index = entry.index;
      row.querySelector("bdi").textContent = entry.class;
      row.querySelector("b").textContent = percent(entry.probability);
      row.querySelector(".fill").style.width = `${100 * Math.min(1, entry.probability)}%`;
      row.querySelector("button").title = say("choose", { name: entry.class });
    });
    const { inference, decode, wait } = answer.milliseconds;
    const short = (value) => (value < 10 ? value.toFixed(1) : value.toFixed(0));
    const values = { inference: short(inference), decode: short(decode), wait: short(wait), trip: short(state.trip) };
    $("times").textContent = say("times", values);
    if (aloud) $("spoken").textContent = say("spoken", { name: first.class, probability: percent(first.probability) });
    mark();
  }

  // What speaks for a class.
  function mark() {
    const chosen = state.method && state.answer ? state.index ?? state.answer.predictions[0].index : null;
    for (const row of $("classes").children) {
      const pressed = Number(row.dataset.index) === chosen;
      row.firstElementChild.setAttribute("aria-pressed", String(pressed));
    }
    for (const button of all("#methods button")) {
      button.setAttribute("aria-pressed", String(button.dataset.method === state.method));
    }
  }
  function choose(index) {
    state.index = index;
    if (!state.method) state.method = state.card.explanations[0];
    again();
  }
  for (const button of all("#methods button")) {
    button.addEventListener("click", () => {
      state.method = button.dataset.method;
      again();
    });
  }
  function again() {
    state.why = null;
    mark();
    showWhy();
    if (state.method && state.answer) explain(asked.signal);
  }
  async function explain(signal) {
    const run = ++state.run;
    $("legend").textContent = say("explaining");
    const chosen = state.index === null ? "" : `&index=${state.index}`;
    try {
      const options = { method: "POST", body: state.blob, headers: { "Content-Type": "application/octet-stream" }, signal };
      const found = await ask(`/v1/explain?method=${state.method}${chosen}`, options);
      if (run !== state.run) return;
      $("waiting").hidden = true;
      state.why = found;
      if ($("stage").dataset.mode === "draw") show();  // a map lies over the drawing, not under the pen
      showWhy();
    } catch (error) {
      if (error.name === "AbortError" || run !== state.run) return;
      $("legend").textContent = "";
      complain(error.message);
    }
  }
  function showWhy() {
    const why = state.why;
    const legend = $("legend");
    mark();
    if (!why) {
      const lacking = state.card && !state.card.explanations.includes("activation");
      legend.textContent = state.method === "" && lacking ? say("nomap") : "";
      paint();
      return;
    }
    const key = (style, word) => [make("span", undefined, `key ${style}`), document.createTextNode(`${say(word)}   `)];
    const text = say(why.method, { name: why.explained.class });
    legend.replaceChildren(...key("for", "for"), ...key("against", "against"), make("br"), make("span", text));
    paint();
  }
  function colours() {
    const probe = getComputedStyle(root);
    const parse = (name) => {
      const hex = probe.getPropertyValue(name).trim().slice(1);
      return [0, 2, 4].map((place) => parseInt(hex.slice(place, place + 2), 16));
    };
    return { positive: parse("--for"), negative: parse("--against") };
  }
  function paint() {
    const overlay = $("overlay");
    const picture = $("shown");
    const pen = overlay.getContext("2d");
    const why = state.why;
    overlay.width = overlay.height = 1;
    if (!why || !picture.complete || !picture.naturalWidth || $("stage").dataset.mode !== "picture") return;
    // The overlay has the picture's own shape, so that the browser places both alike.
    const scale = Math.min(1, 900 / Math.max(why.picture.width, why.picture.height)) || 1;
    const enlarge = Math.max(1, Math.ceil(300 / Math.max(why.picture.width, why.picture.height)));
    const zoom = scale < 1 ? scale : enlarge;
    overlay.width = Math.max(1, Math.round(why.picture.width * zoom));
    overlay.height = Math.max(1, Math.round(why.picture.height * zoom));
    const { left, top, width, height } = why.crop;
    const box = [left * zoom, top * zoom, width * zoom, height * zoom];
    pen.fillStyle = "rgba(22, 21, 18, 0.55)";
    pen.fillRect(0, 0, overlay.width, overlay.height);
    pen.clearRect(...box);
    const rows = why.values.length;
    const columns = why.values[0].length;
    const small = document.createElement("canvas");
    small.width = columns;
    small.height = rows;
    const inside = small.getContext("2d");
    const pixels = inside.createImageData(columns, rows);
    const most = Math.max(...why.values.flat().map(Math.abs)) || 1;
    const { positive, negative } = colours();
    why.values.flat().forEach((value, place) => {
      const share = value / most;
      pixels.data.set(share >= 0 ? positive : negative, 4 * place);
      pixels.data[4 * place + 3] = Math.round(190 * Math.abs(share));
    });
    inside.putImageData(pixels, 0, 0);
    pen.imageSmoothingEnabled = true;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(small, ...box);
  }

  // Files, drop, clipboard
  $("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file) take(file, { file: file.name });
  });
  const stage = $("stage");
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      stage.classList.add("over");
    });
  }
  for (const name of ["dragleave", "drop", "dragend"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      if (name !== "dragleave" || !event.relatedTarget) stage.classList.remove("over");
    });
  }
  document.addEventListener("drop", (event) => {
    const [file] = event.dataTransfer.files;
    if ($("work").hidden) return;
    if (file) take(file, { file: file.name });
    else complain(say("nopicture"));
  });
  document.addEventListener("paste", (event) => {
    const item = Array.from(event.clipboardData.items).find((each) => each.type.startsWith("image/"));
    if (!item || $("work").hidden) return;
    event.preventDefault();
    take(item.getAsFile(), { key: "pasted" });
  });
  $("paste").addEventListener("click", async () => {
    $("problem").hidden = true;
    try {
      for (const item of await navigator.clipboard.read()) {
        const type = item.types.find((each) => each.startsWith("image/"));
        if (type) return take(await item.getType(type), { key: "pasted" });
      }
      return complain(say("nothing"));
    } catch {
      return complain(say("clipboard"));
    }
  });

  // Camera
  let stream = null;
  function stopCamera() {
    if (stream) for (const track of stream.getTracks()) track.stop();
    stream = null;
    $("video").srcObject = null;
  }
  $("camera").addEventListener("click", async () => {
    $("problem").hidden = true;
    if (stream) return closeCamera();
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
    } catch {
      return complain(say("nocamera"));
    }
    $("video").srcObject = stream;
    mode("camera");
    await $("video").play();
    return $("shoot").focus();
  });
  function closeCamera() {
    stopCamera();
    if (state.blob) show();
    else mode("empty");
    $("camera").focus();
  }
  $("camera-off").addEventListener("click", closeCamera);
  $("shoot").addEventListener("click", () => {
    const video = $("video");
    const canvas = make("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => {
      take(blob, { key: "taken" });
      $("camera").focus();
    }, "image/png");
  });

  // Drawing
  let later = 0;
  const pad = makePad($("pad"), () => {
    clearTimeout(later);
    if (pad.empty()) forget();
    else later = setTimeout(draw, 200);
  });
  async function draw() {
    const drawn = await pad.picture();
    if (!pad.empty()) take(drawn, { key: "drawn" }, true);
  }
  $("draw").addEventListener("click", () => {
    if ($("stage").dataset.mode === "draw") return state.blob ? show() : mode("empty");
    mode("draw");
    state.method = "";
    state.why = null;
    showWhy();
    return $("pad").focus();
  });
  $("undo").addEventListener("click", () => pad.undo());
  $("clear").addEventListener("click", () => pad.clear());
  $("dark-paper").addEventListener("change", (event) => pad.setDark(event.target.checked));
  $("pen").addEventListener("input", (event) => pad.setWidth(Number(event.target.value)));

  // The rest
  $("copy").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText($("command").textContent);
    } catch {
      return;
    }
    $("copy").classList.add("copied");
    setTimeout(() => $("copy").classList.remove("copied"), 1500);
  });
  for (const button of all(".languages button")) {
    button.addEventListener("click", () => {
      sessionStorage.setItem("danlu-language", button.dataset.set);
      speak(button.dataset.set);
    });
  }
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  speak(sessionStorage.getItem("danlu-language") || root.dataset.lang);
  open();
})();
