"use strict";
/* A pad to draw on: by pointer, or by keys (arrows move the pen, Space lowers or lifts it). */
function makePad(canvas, changed) {
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const size = canvas.width;
  let strokes = [];
  let stroke = null;
  let dark = true;
  let width = 20;
  let at = { x: size / 2, y: size / 2 };
  let keyboard = false;

  function ink() { return dark ? "#ffffff" : "#000000"; }
  function paper() { return dark ? "#000000" : "#ffffff"; }
  function trace(line) {
    pen.lineWidth = line.width;
    pen.strokeStyle = pen.fillStyle = ink();
    pen.lineCap = pen.lineJoin = "round";
    pen.beginPath();
    if (line.points.length === 1) {
      pen.arc(line.points[0].x, line.points[0].y, line.width / 2, 0, 2 * Math.PI);
      pen.fill();
      return;
    }
    line.points.forEach((point, index) => (index ? pen.lineTo(point.x, point.y) : pen.moveTo(point.x, point.y)));
    pen.stroke();
  }
  function repaint(withCursor) {
    pen.fillStyle = paper();
    pen.fillRect(0, 0, size, size);
    strokes.forEach(trace);
    if (withCursor && keyboard) {
      pen.lineWidth = 2;
      pen.strokeStyle = stroke ? "#d2452c" : "#8f887b";
      pen.beginPath();
      pen.arc(at.x, at.y, Math.max(4, width / 2), 0, 2 * Math.PI);
      pen.stroke();
    }
  }
  function place(event) {
    const box = canvas.getBoundingClientRect();
    return { x: ((event.clientX - box.left) * size) / box.width, y: ((event.clientY - box.top) * size) / box.height };
  }
  function begin(point) {
    stroke = { width, points: [point] };
    strokes.push(stroke);
    at = point;
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    keyboard = false;
    canvas.setPointerCapture(event.pointerId);
    begin(place(event));
    repaint(true);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!stroke || keyboard) return;
    const moved = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
    for (const each of moved.length ? moved : [event]) stroke.points.push(place(each));
    repaint(true);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => {
      if (!stroke || keyboard) return;
      stroke = null;
      changed();
    });
  }
  canvas.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way && event.key !== " ") return;
    event.preventDefault();
    keyboard = true;
    if (event.key === " ") {
      if (stroke) stroke = null;
      else begin({ ...at });
      if (!stroke) changed();
    } else {
      const step = event.shiftKey ? 24 : 8;
      const inside = (value) => Math.min(size, Math.max(0, value));
      at = { x: inside(at.x + way[0] * step), y: inside(at.y + way[1] * step) };
      if (stroke) stroke.points.push({ ...at });
    }
    repaint(true);
  });
  canvas.addEventListener("blur", () => {
    const drew = keyboard && stroke;
    stroke = null;
    keyboard = false;
    repaint(false);
    if (drew) changed();
  });

  repaint(false);
  return {
    empty: () => strokes.length === 0,
    clear() { strokes = []; stroke = null; repaint(true); changed(); },
    undo() { strokes.pop(); stroke = null; repaint(true); changed(); },
    setWidth(value) { width = value; },
    setDark(value) { dark = value; repaint(true); if (strokes.length) changed(); },
    picture() {
      repaint(false);
      return new Promise((resolve) => canvas.toBlob((blob) => { repaint(true); resolve(blob); }, "image/png"));
    },
  };
}
