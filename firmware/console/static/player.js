// The player's speed, steps and keys; what was heard goes to the log.
"use strict";
(() => {
  const audio = document.getElementById("player");
  const wave = document.querySelector(".wave");
  const now = wave.querySelector(".now");
  const speed = document.getElementById("speed");
  for (const id of ["extra", "keys"]) document.getElementById(id).hidden = false;
  const skip = (seconds) => { audio.currentTime = Math.max(0, Math.min(audio.duration || 0, audio.currentTime + seconds)); };
  for (const button of document.querySelectorAll("[data-skip]")) button.addEventListener("click", () => skip(Number(button.dataset.skip)));
  speed.addEventListener("change", () => { audio.playbackRate = Number(speed.value); });
  wave.addEventListener("click", (event) => {
    const box = wave.getBoundingClientRect();
    if (audio.duration) audio.currentTime = (event.clientX - box.left) / box.width * audio.duration;
  });
  audio.addEventListener("timeupdate", () => {
    const x = audio.duration ? audio.currentTime / audio.duration * wave.viewBox.baseVal.width : 0;
    now.setAttribute("x1", x);
    now.setAttribute("x2", x);
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input, select, textarea, button, a, audio") || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowLeft: () => skip(-5), ArrowRight: () => skip(5), " ": () => (audio.paused ? audio.play() : audio.pause()),
      "+": () => { speed.selectedIndex = Math.min(speed.length - 1, speed.selectedIndex + 1); speed.dispatchEvent(new Event("change")); },
      "-": () => { speed.selectedIndex = Math.max(0, speed.selectedIndex - 1); speed.dispatchEvent(new Event("change")); } }[event.key];
    if (step) { event.preventDefault(); step(); }
  });
  // A stretch begins where playing or seeking ends, and is told when it ends.
  let from = null;
  const tell = () => {
    if (from === null) return;
    const first = Math.floor(from), last = Math.ceil(audio.currentTime);
    from = null;
    if (last > first) navigator.sendBeacon(audio.dataset.played, new URLSearchParams({ csrf: audio.dataset.csrf, from: first, to: last }));
  };
  audio.addEventListener("playing", () => { if (from === null) from = audio.currentTime; });
  for (const event of ["pause", "ended"]) audio.addEventListener(event, tell);
  let before = 0;
  audio.addEventListener("timeupdate", () => { if (!audio.seeking) before = audio.currentTime; });
  audio.addEventListener("seeking", () => {
    if (from === null) return;
    const first = Math.floor(from), last = Math.ceil(before);
    if (last > first) navigator.sendBeacon(audio.dataset.played, new URLSearchParams({ csrf: audio.dataset.csrf, from: first, to: last }));
    from = audio.currentTime;
  });
  addEventListener("pagehide", tell);
})();
