// Who calls, and what the lines do, while a page is open.
"use strict";
(() => {
  const popup = document.getElementById("popup");
  const lang = document.documentElement.lang;
  const calls = new Map(); // by line: what is shown of the call under way
  const tell = document.getElementById("tell");
  let told = localStorage.getItem("tell") === "on";
  let sound = null;

  const draw = () => {
    const shown = [...calls.values()];
    popup.hidden = !shown.length;
    popup.innerHTML = shown.map((each) => each.html[lang]).join(""); // written by the unit, with every text escaped
    if (!popup.dataset.may) for (const button of popup.querySelectorAll("[data-taken]")) button.remove();
  };
  popup.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-taken]");
    if (!button) return;
    const name = document.querySelector(".mine .name").textContent;
    const done = await fetch(button.dataset.taken, { method: "POST", body: new URLSearchParams({ csrf: popup.dataset.csrf, taken_by: name }) });
    if (done.ok) { button.disabled = true; button.textContent = name; }
  });

  // Two tones, as long as somebody has asked for them.
  const ring = () => {
    if (!told) return;
    sound = sound || new AudioContext();
    for (const [at, pitch] of [[0, 880], [0.18, 1108], [0.6, 880], [0.78, 1108]]) {
      const tone = new OscillatorNode(sound, { frequency: pitch }), level = new GainNode(sound, { gain: 0.12 });
      tone.connect(level).connect(sound.destination);
      tone.start(sound.currentTime + at);
      tone.stop(sound.currentTime + at + 0.14);
    }
  };
  // The system's own notice where the page is not in front; the caller's name takes the place of an earlier one.
  const notice = () => {
    const who = told && popup.querySelector(".big");
    if (document.hidden && "Notification" in window && Notification.permission === "granted" && who) {
      new Notification(tell.dataset.rings, { body: who.innerText, tag: "ring", icon: "/static/icon.svg" });
    }
  };
  const label = () => { tell.textContent = told ? tell.dataset.on : tell.dataset.off; tell.setAttribute("aria-pressed", told); };
  if (tell) {
    tell.hidden = false;
    label();
    tell.addEventListener("click", async () => {
      told = !told;
      localStorage.setItem("tell", told ? "on" : "off");
      if (told && "Notification" in window && Notification.permission === "default") await Notification.requestPermission();
      label();
    });
  }

  const shown = (line, state) => {
    const row = document.querySelector(`[data-line="${line}"]`);
    if (row) {
      row.className = state;
      const word = document.querySelector(`[data-state="${state}"]`);
      row.querySelector("strong").textContent = word ? word.textContent : state;
    }
    if (["idle", "held_open", "line_cut"].includes(state) && calls.delete(line)) draw();
  };
  let later = 0;
  const fresh = () => { // once what is being written is written
    if (!document.querySelector(".lines") || document.querySelector("main details[open], main form:focus-within")) return;
    clearTimeout(later);
    later = setTimeout(() => location.reload(), 800);
  };
  const feed = new EventSource("/live");
  let lost = false;
  feed.onerror = () => { lost = true; };
  feed.onopen = () => { if (lost) fresh(); lost = false; };
  feed.onmessage = (message) => {
    const said = JSON.parse(message.data);
    const away = document.getElementById("away");
    away.hidden = !("away" in said);
    if ("state" in said) shown(said.line, said.state);
    if ("html" in said) {
      const known = calls.get(said.line);
      calls.set(said.line, said);
      draw();
      if (said.rings && (!known || known.call_id !== said.call_id)) ring();
      if (said.rings) notice();
    }
    if ("happened" in said) fresh();
  };
})();
