// Who calls, and what the lines do, while a page is open.
"use strict";
(() => {
  const popup = document.getElementById("popup");
  const ringing = new Map(); // by line: who
  const draw = () => {
    const who = [...ringing.values()].pop();
    popup.hidden = !who;
    if (!who) return;
    popup.querySelector("strong").textContent = who.shown;
    popup.querySelector(".region").textContent = who.region || "";
  };
  const lang = document.documentElement.lang;
  const nobody = { ja: "着信中", en: "Somebody" }[lang];
  const caller = (data) => {
    const them = data.caller || {};
    return { shown: [them.display || them.raw || nobody, them.name].filter(Boolean).join(" "), region: them["region_" + lang] };
  };
  const shown = (line, state) => {
    const row = document.querySelector(`[data-line="${line}"]`);
    if (row) {
      row.className = state;
      const word = document.querySelector(`[data-state="${state}"]`);
      row.querySelector("strong").textContent = word ? word.textContent : state;
    }
    if (state === "ringing" || state === "cid_handshake") {
      if (!ringing.has(line)) ringing.set(line, { shown: nobody });
    } else {
      ringing.delete(line);
    }
    draw();
  };
  const feed = new EventSource("/live");
  let lost = false;
  feed.onerror = () => { lost = true; };
  feed.onopen = () => { if (lost && document.querySelector("[data-line]")) location.reload(); lost = false; };
  feed.onmessage = (message) => {
    const said = JSON.parse(message.data);
    const away = document.getElementById("away");
    if ("away" in said) { away.hidden = false; return; }
    away.hidden = true;
    if (said.topic && said.topic.startsWith("state/line/")) shown(said.topic.split("/")[2], said.payload.state);
    if (said.event === "call.caller_id" || said.event === "call.ringing") {
      ringing.set(String(said.data.line), caller(said.data));
      draw();
    }
    if (["call.ended", "call.missed", "callback.done"].includes(said.event) && document.querySelector("[data-line]")) {
      setTimeout(() => { if (!document.querySelector("form:focus-within")) location.reload(); }, 1500);
    }
  };
})();
