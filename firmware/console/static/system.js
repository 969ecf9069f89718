// How loud each line is, now.
"use strict";
(() => {
  const look = async () => {
    try {
      const answer = await fetch("/system/peaks");
      const peaks = answer.ok ? await answer.json() : {};
      for (const meter of document.querySelectorAll("[data-peak]")) {
        const peak = peaks[meter.dataset.peak];
        const level = peak ? Math.max(-60, 20 * Math.log10(peak / 32768)) : -60;
        meter.value = level;
        document.querySelector(`[data-shown="${meter.dataset.peak}"]`).textContent = peak === undefined ? "–" : `${level.toFixed(0)} dB`;
      }
    } catch { /* the unit is away; the page says so */ }
    setTimeout(look, document.hidden ? 2000 : 250);
  };
  look();
})();
