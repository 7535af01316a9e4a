// Colors the regions of an answer and names the one that is pointed at. Gradio runs this once, with
// `element`, the component's element, whose content it replaces with each answer, and `watch`.

let map = null; // numbers and scores of the regions, RGBA pixels; null until they are decoded
let regions = { names: [], colors: [] };
let pointer = null; // [x, y] of the keyboard's pointer, in pixels of the map
const BORDER = [255, 255, 255];

const find = (selector) => element.querySelector(selector);
const region = (index) => map.data[4 * index] + 256 * map.data[4 * index + 1];

async function show() {
  const figure = find(".ita-picture");
  if (!figure) return;
  const source = figure.dataset.map;
  const image = new Image();
  image.src = source;
  await image.decode();
  if (find(".ita-picture")?.dataset.map !== source) return; // another answer has come meanwhile
  const canvas = find("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  map = context.getImageData(0, 0, image.width, image.height);
  regions = JSON.parse(figure.dataset.regions);
  pointer = null;
  context.putImageData(paint(), 0, 0);
  setOpacity();
  leave();
}

// Gradio gives these buttons pictures without names.
function nameExamples() {
  for (const [index, button] of document.querySelectorAll("#examples button").entries()) {
    button.setAttribute("aria-label", `Example ${index + 1}`);
  }
}

function paint() {
  const { width, height } = map;
  const painted = new ImageData(width, height);
  for (let index = 0; index < width * height; index++) {
    const id = region(index);
    const atBorder =
      ((index + 1) % width && region(index + 1) !== id) ||
      (index + width < width * height && region(index + width) !== id);
    if (!id && !atBorder) continue; // no region: the image itself
    painted.data.set(atBorder ? BORDER : regions.colors[id - 1], 4 * index);
    painted.data[4 * index + 3] = 255;
  }
  return painted;
}

function setOpacity() {
  const opacity = find("input[type=range]").value / 100;
  find("canvas").style.opacity = opacity;
  // Colors are told apart best over gray.
  find("img").style.filter = `grayscale(${Math.min(1, 1.5 * opacity)})`;
}

function pointAt(x, y) {
  const index = y * map.width + x;
  const id = region(index);
  const name = id ? regions.names[id - 1] : "no segment";
  const scored = id && find(".ita-picture").dataset.scored === "1";
  const text = scored ? `${name}, score ${(map.data[4 * index + 2] / 255).toFixed(2)}` : name;
  const tip = find(".ita-tip");
  tip.textContent = find(".ita-pointed").textContent = text;
  tip.hidden = false;
  place(tip, x, y);
  // On the side with more space.
  const shifts = [x > map.width / 2, y > map.height / 2];
  tip.style.translate = shifts.map((back) => (back ? "calc(-100% - 8px)" : "12px")).join(" ");
}

function place(mark, x, y) {
  mark.style.left = `${(100 * (x + 0.5)) / map.width}%`;
  mark.style.top = `${(100 * (y + 0.5)) / map.height}%`;
}

function leave() {
  find(".ita-tip").hidden = find(".ita-cross").hidden = true;
}

element.addEventListener("pointermove", (event) => {
  const frame = event.target.closest(".ita-frame");
  if (!frame) return find(".ita-tip") && leave();
  if (!map) return;
  const box = frame.getBoundingClientRect();
  const inside = (value, size) => Math.min(Math.max(Math.floor(value * size), 0), size - 1);
  find(".ita-cross").hidden = true;
  pointAt(
    inside((event.clientX - box.left) / box.width, map.width),
    inside((event.clientY - box.top) / box.height, map.height),
  );
});
element.addEventListener("pointerleave", () => find(".ita-tip") && leave());
element.addEventListener("focusout", () => find(".ita-tip") && leave());
element.addEventListener("input", (event) => event.target.type === "range" && setOpacity());
element.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!step || !map || !event.target.closest(".ita-frame")) return;
  event.preventDefault();
  const size = [map.width, map.height];
  const length = Math.max(1, Math.round(Math.max(...size) / 50));
  const from = pointer ?? size.map((side) => Math.floor(side / 2));
  pointer = from.map((at, axis) => Math.min(Math.max(at + step[axis] * length, 0), size[axis] - 1));
  find(".ita-cross").hidden = false;
  place(find(".ita-cross"), ...pointer);
  pointAt(...pointer);
});

new MutationObserver(nameExamples).observe(document.body, { childList: true, subtree: true });
nameExamples();
watch("value", async () => {
  await show();
  // On narrow screens the answer is below the question.
  if (element.getBoundingClientRect().top > innerHeight / 2) element.scrollIntoView();
});
show();
