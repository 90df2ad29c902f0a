"use strict";
// The order of a step's pictures, by clicks, keys and dragging. page.js, with which it is one script, shows and saves it.
// `groups` is the order so far: a list of groups of pictures' names, the best first; several in a group are level.

// --- the order so far ---------------------------------------------------------------------------------------------------
let groups = [], past = [], active = null, begun = 0;
const step = () => steps[memory.at];
const letter = name => String.fromCharCode(65 + step().pictures.findIndex(picture => picture.name === name));
const source = name => step().pictures.find(picture => picture.name === name).source;
const place = name => groups.findIndex(group => group.includes(name));
const without = name => groups.map(group => group.filter(other => other !== name)).filter(group => group.length);
const complete = () => groups.flat().length === step().pictures.length;
const rank = name => groups.slice(0, place(name)).flat().length + 1;

function change(next, name) {
  active = next.flat().includes(name) ? name : null;
  if (JSON.stringify(next) !== JSON.stringify(groups)) {
    past.push(groups);
    groups = next;
    memory.drafts = { [step().key]: groups };
    remember();
  }
  draw();
}
function insert(name, index) {  // before the group that is at `index` now
  const here = place(name);
  const rest = without(name);
  const at = here >= 0 && groups[here].length === 1 && here < index ? index - 1 : index;
  change([...rest.slice(0, at), [name], ...rest.slice(at)], name);
}
function level(name, index) {  // with the group that is at `index` now
  if (place(name) === index || !groups[index]) return;
  const mate = groups[index][0];
  change(without(name).map(group => (group.includes(mate) ? [...group, name] : group)), name);
}
function pick(name) {
  if (place(name) < 0) insert(name, groups.length);
  else { active = name; draw(); }
}
function undo() {
  if (!past.length) return;
  groups = past.pop();
  active = null;
  memory.drafts = { [step().key]: groups };
  remember();
  draw();
}
const tools = {
  better(name) { const at = place(name); insert(name, groups[at].length > 1 ? at : Math.max(0, at - 1)); },
  worse(name) { const at = place(name); insert(name, groups[at].length > 1 ? at + 1 : Math.min(groups.length, at + 2)); },
  level(name) { const at = place(name); level(name, groups[at].length > 1 ? at : at - 1); },
  out(name) { change(without(name), name); },
};

// --- dragging ---------------------------------------------------------------------------------------------------------------
let drag = null, justDragged = false;
document.addEventListener("pointerdown", event => {
  const from = event.target.closest(".thumb, .card");
  justDragged = false;
  // A finger on a picture of the grid scrolls; there, tapping does it.
  if (!from || event.button || (event.pointerType === "touch" && from.matches(".card"))) return;
  drag = { name: from.dataset.name, x: event.clientX, y: event.clientY, pointer: event.pointerId, ghost: null };
});
document.addEventListener("pointermove", event => {
  if (!drag || event.pointerId !== drag.pointer) return;
  if (!drag.ghost) {
    if (Math.hypot(event.clientX - drag.x, event.clientY - drag.y) < 6) return;
    drag.ghost = picture(drag.name, "ghost");
    document.body.append(drag.ghost);
  }
  drag.ghost.style.left = `${event.clientX}px`;
  drag.ghost.style.top = `${event.clientY}px`;
  mark(target(event));
});
document.addEventListener("pointerup", event => {
  if (!drag || event.pointerId !== drag.pointer) return;
  const { name, ghost } = drag, to = ghost && target(event);
  endDrag();
  if (!ghost) return;
  justDragged = true;
  if (to) (to.how === "level" ? level : insert)(name, to.how === "after" ? to.index + 1 : to.index);
});
document.addEventListener("pointercancel", endDrag);
function endDrag() {
  drag?.ghost?.remove();
  drag = null;
  mark(null);
}
function target({ clientX, clientY }) {  // where a picture would go: before, after or level with a group
  const box = $("board").getBoundingClientRect();
  if (clientY < box.top || clientY > box.bottom) return null;
  const filled = [...document.querySelectorAll("#places li.filled")];
  for (const [index, element] of filled.entries()) {
    const { left, width, right, bottom } = element.getBoundingClientRect();
    if (clientX > right || clientY > bottom + 4) continue;  // there may be several rows
    const share = (clientX - left) / width;
    if (share < 0.3) return { index, element, how: "before" };
    return share > 0.7 ? { index, element, how: "after" } : { index, element, how: "level" };
  }
  return filled.length ? { index: filled.length - 1, element: filled.at(-1), how: "after" } : { index: 0, how: "before" };
}
function mark(to) {
  for (const element of document.querySelectorAll("#places li")) element.classList.remove("before", "after", "level");
  to?.element?.classList.add(to.how);
}

// --- clicks and keys ----------------------------------------------------------------------------------------------------------
document.addEventListener("click", event => {
  const button = event.target.closest(".thumb, .card, [data-do]");
  if (!button || justDragged) return;
  if (button.dataset.do) tools[button.dataset.do](active);
  else pick(button.dataset.name);
});
document.addEventListener("focusin", event => {
  const thumb = event.target.closest(".thumb");
  if (thumb && thumb.dataset.name !== active) { active = thumb.dataset.name; draw(); }
});
document.addEventListener("keydown", event => {
  if ($("step").hidden || $("large").open || event.altKey || event.metaKey || (event.ctrlKey && event.key !== "z")) return;
  const { pictures } = step(), key = event.key;
  const index = key.length === 1 ? key.toUpperCase().charCodeAt(0) - 65 : -1;
  const actions = { ArrowLeft: "better", ArrowRight: "worse", "=": "level", Delete: "out" };
  if (key === "Backspace" || (event.ctrlKey && key === "z")) undo();
  else if (index >= 0 && index < pictures.length) pick(pictures[index].name);
  else if (actions[key] && active) tools[actions[key]](active);
  else if (/^[1-9]$/.test(key) && active && key <= groups.length) {
    const at = place(active), alone = groups[at].length === 1;
    insert(active, alone && key - 1 > at ? Number(key) : key - 1);
  } else if (key === "Enter" && complete() && !event.target.closest("button:not(.card, .thumb)")) next();
  else return;
  event.preventDefault();
});
