// The player: speed, steps, gain, a stretch that is repeated, silence that is skipped; what was heard goes to the log.
"use strict";
(() => {
  const audio = document.getElementById("player");
  const by = (id) => document.getElementById(id);
  const wave = document.querySelector(".wave");
  const speed = by("speed"), gain = by("gain"), quiet = by("quiet"), loop = by("loop");
  const silent = JSON.parse(audio.dataset.quiet || "[]");
  for (const id of ["extra", "keys"]) by(id).hidden = false;
  quiet.closest("label").hidden = !silent.length;

  const to = (seconds) => { audio.currentTime = Math.max(0, Math.min(audio.duration || 0, seconds)); };
  const skip = (seconds) => to(audio.currentTime + seconds);
  for (const button of document.querySelectorAll("[data-skip]")) button.addEventListener("click", () => skip(Number(button.dataset.skip)));
  for (const button of document.querySelectorAll("[data-at]")) button.addEventListener("click", () => { to(Number(button.dataset.at)); audio.play(); });
  speed.addEventListener("change", () => { audio.playbackRate = Number(speed.value); });

  // The browser's own volume goes to 1; a voice that is far away needs more.
  let amplifier = null;
  gain.addEventListener("change", () => {
    if (!amplifier) {
      const context = new AudioContext();
      amplifier = context.createGain();
      context.createMediaElementSource(audio).connect(amplifier).connect(context.destination);
    }
    amplifier.context.resume();
    amplifier.gain.value = Number(gain.value);
  });

  // First press: from here; second: to here; third: no more.
  let stretch = null;
  const scale = () => wave.viewBox.baseVal.width / (audio.duration || 1);
  const drawn = () => {
    loop.textContent = loop.dataset[!stretch ? "from" : stretch.length === 1 ? "to" : "off"];
    loop.setAttribute("aria-pressed", Boolean(stretch));
    if (!wave) return;
    const box = wave.querySelector(".loop");
    const [first, last] = stretch && stretch.length === 2 ? stretch : [0, 0];
    box.setAttribute("x", first * scale());
    box.setAttribute("width", (last - first) * scale());
  };
  const press = () => {
    const at = audio.currentTime;
    if (!stretch) stretch = [at];
    else if (stretch.length === 1) stretch = at - stretch[0] > 0.3 ? [stretch[0], at] : null;
    else stretch = null;
    drawn();
    if (stretch && stretch.length === 2) to(stretch[0]);
  };
  loop.addEventListener("click", press);

  if (wave) {
    wave.addEventListener("click", (event) => {
      const box = wave.getBoundingClientRect();
      if (audio.duration) to((event.clientX - box.left) / box.width * audio.duration);
    });
  }
  audio.addEventListener("timeupdate", () => {
    if (wave) {
      const now = wave.querySelector(".now");
      now.setAttribute("x1", audio.currentTime * scale());
      now.setAttribute("x2", audio.currentTime * scale());
    }
    if (audio.paused || audio.seeking) return;
    if (stretch && stretch.length === 2 && audio.currentTime >= stretch[1]) { to(stretch[0]); return; }
    const pause = quiet.checked && silent.find(([a, b]) => audio.currentTime > a + 0.3 && audio.currentTime < b - 0.6);
    if (pause) to(pause[1] - 0.3);
  });
  const faster = (by) => { speed.selectedIndex = Math.max(0, Math.min(speed.length - 1, speed.selectedIndex + by)); speed.dispatchEvent(new Event("change")); };
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input, select, textarea, button, a, audio, summary") || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowLeft: () => skip(-5), ArrowRight: () => skip(5), " ": () => (audio.paused ? audio.play() : audio.pause()),
      "+": () => faster(1), "-": () => faster(-1), l: press }[event.key];
    if (step) { event.preventDefault(); step(); }
  });

  // A stretch begins where playing or seeking ends, and is told when it ends.
  if (!audio.dataset.played) return;
  let from = null, before = 0;
  const tell = (until) => {
    if (from === null) return;
    const first = Math.floor(from), last = Math.ceil(until);
    from = null;
    if (last > first) navigator.sendBeacon(audio.dataset.played, new URLSearchParams({ csrf: audio.dataset.csrf, from: first, to: last }));
  };
  audio.addEventListener("playing", () => { if (from === null) from = audio.currentTime; });
  for (const event of ["pause", "ended"]) audio.addEventListener(event, () => tell(audio.currentTime));
  audio.addEventListener("timeupdate", () => { if (!audio.seeking) before = audio.currentTime; });
  audio.addEventListener("seeking", () => { if (from !== null) { tell(before); from = audio.currentTime; } });
  addEventListener("pagehide", () => tell(audio.currentTime));
})();
