// The editor of a mask: brush, eraser and box, by mouse, finger and keys. `props.value` is what there is to edit, as JSON
// (see realignkit/ui/render.py); 'paint' is triggered with the new mask, as a picture, whenever it has changed.
const mask = document.createElement("canvas"), picture = new Image();
let shown = null, tool = "brush", past = [], cursor = null, corner = null, last = null;

const canvas = () => element.querySelector("canvas");
const say = text => { element.querySelector("[data-said]").textContent = text; };
const radius = () => Math.max(0.5, element.querySelector("[data-width]").value / 200 * mask.width);

function draw() {
  const view = canvas();
  if (!view || !shown) return;
  const scale = Math.max(1, Math.ceil(512 / mask.width));
  view.width = mask.width * scale;
  view.height = mask.height * scale;
  const context = view.getContext("2d");
  context.imageSmoothingEnabled = mask.width > 128;
  context.drawImage(picture, 0, 0, view.width, view.height);
  const tint = document.createElement("canvas");
  tint.width = mask.width; tint.height = mask.height;
  const inside = tint.getContext("2d");
  inside.drawImage(mask, 0, 0);
  inside.globalCompositeOperation = "source-in";
  inside.fillStyle = "#e69f00";
  inside.fillRect(0, 0, mask.width, mask.height);
  context.imageSmoothingEnabled = false;
  context.globalAlpha = 0.6;
  context.drawImage(tint, 0, 0, view.width, view.height);
  context.globalAlpha = 1;
  if (!cursor) return;
  context.lineWidth = 2;
  for (const [style, dash] of [["#fff", []], ["#18181b", [4, 4]]]) {
    context.strokeStyle = style;
    context.setLineDash(dash);
    context.beginPath();
    if (tool === "box" && corner)
      context.rect(corner[0] * scale, corner[1] * scale, (cursor[0] - corner[0]) * scale, (cursor[1] - corner[1]) * scale);
    else context.arc(cursor[0] * scale, cursor[1] * scale, (tool === "box" ? 1 : radius()) * scale, 0, 7);
    context.stroke();
  }
}

function keep() {
  past.push(mask.getContext("2d").getImageData(0, 0, mask.width, mask.height));
  if (past.length > 30) past.shift();
}

function stroke(from, to) {
  const context = mask.getContext("2d");
  context.globalCompositeOperation = tool === "erase" ? "destination-out" : "source-over";
  context.strokeStyle = context.fillStyle = "#fff";
  context.lineCap = "round";
  context.lineWidth = 2 * radius();
  context.beginPath();
  context.moveTo(from[0], from[1]);
  context.lineTo(to[0] + 0.001, to[1]);
  context.stroke();
}

function box(from, to) {
  const context = mask.getContext("2d"), [x, y] = [0, 1].map(i => Math.round(Math.min(from[i], to[i])));
  context.globalCompositeOperation = "source-over";
  context.clearRect(0, 0, mask.width, mask.height); // a box says where the object is: nowhere else
  context.fillStyle = "#fff";
  context.fillRect(x, y, Math.round(Math.abs(to[0] - from[0])), Math.round(Math.abs(to[1] - from[1])));
}

function send(what) {
  draw();
  say(what);
  const flat = document.createElement("canvas"); // white on black, without transparency
  flat.width = mask.width; flat.height = mask.height;
  const context = flat.getContext("2d");
  context.fillRect(0, 0, flat.width, flat.height);
  context.drawImage(mask, 0, 0);
  trigger("paint", { index: shown.index, mask: flat.toDataURL("image/png") });
}

async function load() {
  if (!props.value) return;
  const value = JSON.parse(props.value);
  const stroked = new Image();
  picture.src = value.picture;
  stroked.src = value.mask;
  await Promise.all([picture.decode(), stroked.decode()]);
  if (!shown || shown.index !== value.index || shown.picture !== value.picture) past = [];
  shown = value;
  mask.width = value.width;
  mask.height = value.height;
  const context = mask.getContext("2d");
  context.drawImage(stroked, 0, 0);
  const pixels = context.getImageData(0, 0, mask.width, mask.height);
  for (let i = 0; i < pixels.data.length; i += 4) pixels.data[i + 3] = pixels.data[i];
  context.putImageData(pixels, 0, 0);
  canvas().setAttribute("aria-label", `The mask of ${value.name}. Arrow keys move, space draws.`);
  canvas().dataset.ready = value.index;
  draw();
}

const place = event => {
  const frame = canvas().getBoundingClientRect();
  return [(event.clientX - frame.left) / frame.width * mask.width, (event.clientY - frame.top) / frame.height * mask.height];
};

element.addEventListener("pointerdown", event => {
  if (event.target !== canvas() || !shown) return;
  event.preventDefault();
  canvas().focus();
  canvas().setPointerCapture(event.pointerId);
  keep();
  last = cursor = place(event);
  if (tool === "box") corner = last; else stroke(last, last);
  draw();
});
element.addEventListener("pointermove", event => {
  if (event.target !== canvas() || !shown) return;
  cursor = place(event);
  if (last && tool !== "box") { stroke(last, cursor); last = cursor; }
  draw();
});
element.addEventListener("pointerup", event => {
  if (!last) return;
  if (tool === "box") box(corner, place(event));
  last = corner = null;
  send(tool === "erase" ? "Erased." : "Drawn.");
});
element.addEventListener("keydown", event => {
  if (event.target !== canvas() || !shown) return;
  const step = Math.max(1, mask.width / 32), moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  cursor = cursor || [mask.width / 2, mask.height / 2];
  if (moves[event.key]) {
    cursor = [0, 1].map(i => Math.min([mask.width, mask.height][i], Math.max(0, cursor[i] + moves[event.key][i] * step)));
    say(`${Math.round(100 * cursor[0] / mask.width)} % from the left, ${Math.round(100 * cursor[1] / mask.height)} % from the top.`);
    draw();
  } else if (event.key === " " || event.key === "Enter") {
    if (tool === "box" && !corner) { corner = cursor; say("First corner set."); draw(); }
    else {
      keep();
      if (tool === "box") box(corner, cursor); else stroke(cursor, cursor);
      corner = null;
      send(tool === "erase" ? "Erased." : "Drawn.");
    }
  } else if (event.key === "z" && (event.ctrlKey || event.metaKey)) undo();
  else return;
  event.preventDefault();
});

function undo() {
  if (!past.length) return say("There is nothing to undo.");
  mask.getContext("2d").putImageData(past.pop(), 0, 0);
  send("Undone.");
}

element.addEventListener("click", event => {
  const button = event.target.closest("button");
  if (!button || !shown) return;
  if (button.dataset.tool) {
    tool = button.dataset.tool;
    corner = null;
    for (const each of element.querySelectorAll("[data-tool]")) each.setAttribute("aria-pressed", each === button);
  } else if (button.dataset.do === "undo") undo();
  else {
    keep();
    mask.getContext("2d").clearRect(0, 0, mask.width, mask.height);
    send("Cleared.");
  }
});

watch("value", load);
load();
