// What is shown and saved. A step is an item and a question.
const study = JSON.parse(document.getElementById("study").textContent);
const $ = id => document.getElementById(id);
const make = (tag, attributes, ...children) => {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
};

// --- what this device remembers --------------------------------------------------------------------------------------
const KEY = `realignkit-study-${study.id}`;
const fresh = () => ({ person: randomName(), agreed: false, answers: {}, drafts: {}, at: 0 });
let memory = recall();

function randomName() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), byte => byte.toString(16).padStart(2, "0")).join("");
}
function recall() {
  try {
    return { ...fresh(), ...JSON.parse(localStorage.getItem(KEY)) };
  } catch {
    return fresh();
  }
}
function remember() {
  try {
    localStorage.setItem(KEY, JSON.stringify(memory));
  } catch {
    say("This browser keeps nothing: finish without closing the page.");
  }
}

// --- random orders, the same for a person whenever the page is opened --------------------------------------------------
function shuffled(list, text) {
  let state = 2166136261;
  for (const character of `${memory.person}/${text}`) state = Math.imul(state ^ character.codePointAt(0), 16777619);
  const random = () => {  // mulberry32
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
  const result = [...list];
  for (let last = result.length - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1));
    [result[last], result[other]] = [result[other], result[last]];
  }
  return result;
}
let steps = [];
function deal() {
  steps = shuffled(study.items, "items").flatMap(item => {
    const pictures = shuffled(item.pictures, `pictures ${item.id}`);
    return study.questions.map((question, number) =>
      ({ item, question, number, pictures, key: `${item.id}/${question.name}` }));
  });
}

// --- what is seen ---------------------------------------------------------------------------------------------------------
function picture(name, className) {
  const image = make("img", { src: source(name), alt: "", draggable: false, className: className || "" });
  const sharpen = () => image.classList.toggle("crisp", image.naturalWidth <= 128);
  if (image.complete) sharpen(); else image.addEventListener("load", sharpen);
  return image;
}
function show(section) {
  for (const id of ["welcome", "step", "done"]) $(id).hidden = id !== section;
  $("offline").hidden = study.server || !Object.keys(memory.answers).length;
  const done = steps.filter(({ key }) => memory.answers[key]).length;
  $("progress").max = steps.length;
  $("progress").value = done;
  $("count").textContent = section === "step" ? `${memory.at + 1} of ${steps.length}` : `${done} of ${steps.length} done`;
}
function open() {
  if (!memory.agreed) return show("welcome");
  if (memory.at >= steps.length) {
    show("done");
    return tellEnd();
  }
  const { item, question, number, pictures, key } = step();
  groups = memory.drafts[key] || (memory.answers[key] || { ranking: [] }).ranking;
  past = [];
  active = null;
  begun = performance.now();
  $("kind").textContent = `Question ${number + 1} of ${study.questions.length}`;
  $("question").textContent = question.text;
  $("prompt").textContent = item.prompt;
  $("pictures").replaceChildren(...pictures.map(({ name }) => {
    const card = make("button", { className: "card" }, picture(name),
      make("span", { className: "letter", textContent: letter(name) }), make("span", { className: "rank", hidden: true }));
    card.dataset.name = name;
    const zoom = make("button", { className: "zoom", textContent: "⤢" });
    zoom.setAttribute("aria-label", `Picture ${letter(name)}, large`);
    zoom.addEventListener("click", () => enlarge(name));
    return make("li", {}, card, zoom);
  }));
  for (const { source } of (steps[memory.at + 1] || { pictures: [] }).pictures) new Image().src = source;
  show("step");
  draw();
  scrollTo(0, 0);
  $("question").focus({ preventScroll: true });
}
function draw() {
  const total = step().pictures.length, ranked = groups.flat().length;
  for (const card of document.querySelectorAll(".card")) {
    const name = card.dataset.name, badge = card.querySelector(".rank"), isRanked = place(name) >= 0;
    card.classList.toggle("ranked", isRanked);
    badge.hidden = !isRanked;
    badge.textContent = isRanked ? rank(name) : "";
    card.setAttribute("aria-label", `Picture ${letter(name)}${isRanked ? `, place ${rank(name)}` : ", not placed yet"}`);
  }
  const focused = document.activeElement?.closest(".thumb")?.dataset.name;
  const filled = groups.map(group => {
    const thumbs = group.map(name => {
      const thumb = make("button", { className: `thumb${name === active ? " active" : ""}` }, picture(name),
        make("span", { textContent: letter(name) }));
      thumb.dataset.name = name;
      thumb.setAttribute("aria-label", `Picture ${letter(name)}, place ${rank(name)}${group.length > 1 ? ", level" : ""}`);
      thumb.setAttribute("aria-pressed", name === active);
      return thumb;
    });
    return make("li", { className: "filled" }, make("b", { textContent: rank(group[0]) }), ...thumbs);
  });
  const open = Array.from({ length: total - ranked }, (_, number) => make("li", { textContent: ranked + number + 1 }));
  $("places").replaceChildren(...filled, ...open);
  const again = [...document.querySelectorAll(".thumb")].find(thumb => thumb.dataset.name === focused);
  if (again) again.focus({ preventScroll: true });
  $("hint").textContent = complete() ? "All placed. Change what you like, then go on."
    : ranked ? `Which is next? ${total - ranked} to go.` : "Best first: tap it, drag it here, or press its letter.";
  $("tools").classList.toggle("idle", !active);
  if (active) {
    const at = place(active), alone = groups[at].length === 1;
    $("tools").querySelector("[data-do=better]").disabled = alone && at === 0;
    $("tools").querySelector("[data-do=worse]").disabled = alone && at === groups.length - 1;
    $("tools").querySelector("[data-do=level]").disabled = !alone || at === 0;
  }
  $("undo").disabled = !past.length;
  $("back").disabled = memory.at === 0;
  $("next").disabled = !complete();
}
function enlarge(name) {
  $("large").querySelector("img").replaceWith(picture(name));
  $("large").showModal();
}

// --- going on, and saving -------------------------------------------------------------------------------------------------
function next() {
  if (!complete()) return;
  const { key, pictures } = step();
  const seconds = Math.round((performance.now() - begun) / 100) / 10;
  const before = memory.answers[key];
  if (!before || JSON.stringify(before.ranking) !== JSON.stringify(groups)) {
    memory.answers[key] = {
      ranking: groups, shown: pictures.map(({ name }) => name), seconds, at: new Date().toISOString(), sent: !study.server,
    };
  }
  memory.drafts = {};
  go(memory.at + 1);
  send();
}
function go(at) {
  memory.at = Math.max(0, at);
  remember();
  open();
}
function say(text) { $("saved").textContent = text; }
const unsent = () => Object.entries(memory.answers).filter(([, answer]) => !answer.sent);
let sending = false, pause = 1;
async function send() {
  if (sending) return;
  sending = true;
  if (unsent().length) say("");  // "Saved" was of what came before
  for (let waiting; (waiting = unsent()).length; ) {
    const [key, answer] = waiting[0], person = memory.person;
    try {
      const { ranking, shown, seconds } = answer;
      const response = await fetch(`answers/${person}/${key}`, {
        method: "PUT", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ ranking, shown, seconds }),
      });
      if (response.status >= 500) throw new Error(response.status);
      answer.sent = true;
      pause = 1;
      if (!response.ok) say("The server does not know this study any more: ask whoever gave you the address.");
      else if (!unsent().length) say("Saved");
      remember();
    } catch {
      say("Waiting for the server; your answers are kept here …");
      await new Promise(resolve => setTimeout(resolve, 1000 * pause));
      pause = Math.min(30, 2 * pause);
    }
  }
  sending = false;
  if (!$("done").hidden) tellEnd();
}
function tellEnd() {
  $("thanks").textContent = !study.server ? "Download your answers and send them to whoever gave you this page."
    : unsent().length ? "Keep this page open until all answers are sent." : "All your answers are saved. You can close this page.";
  document.querySelector("#done h1").focus({ preventScroll: true });
}
function download() {
  const answers = steps.filter(({ key }) => memory.answers[key]).map(({ key, item, question }) => {
    const { sent, ...answer } = memory.answers[key];
    return { person: memory.person, item: item.id, question: question.name, ...answer };
  });
  const file = { format: "realignkit.study-answers", version: 1, study: study.id, answers };
  const address = URL.createObjectURL(new Blob([JSON.stringify(file, null, 1)], { type: "application/json" }));
  make("a", { href: address, download: `answers-${memory.person.slice(0, 8)}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

// --- buttons ------------------------------------------------------------------------------------------------------------
$("begin").addEventListener("click", () => { memory.agreed = true; go(0); });
$("next").addEventListener("click", next);
$("undo").addEventListener("click", undo);
$("back").addEventListener("click", () => go(memory.at - 1));
$("review").addEventListener("click", () => go(steps.length - 1));
$("download").addEventListener("click", download);
$("another").addEventListener("click", () => {
  if (!study.server) download();  // what is not taken along now would be lost
  if (unsent().length || !confirm("Begin anew, as another person?")) return;
  memory = fresh();
  say("");
  deal();
  go(0);
});

$("consent").textContent = study.consent;
deal();
open();
send();
