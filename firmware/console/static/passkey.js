// Passkeys: one is made, or somebody logs in with one.
"use strict";
(() => {
  const button = document.getElementById("passkey");
  if (!button || !window.PublicKeyCredential || !PublicKeyCredential.parseCreationOptionsFromJSON) return;
  if (/^[\d.]+$|^\[/.test(location.hostname)) return; // browsers know none of an address
  document.getElementById("with-passkey").hidden = false;
  const wrong = document.getElementById("passkey-wrong");
  const post = async (path, form) => {
    const answer = await fetch(path, { method: "POST", body: new URLSearchParams({ csrf: button.dataset.csrf || "", ...form }) });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error);
    return told;
  };
  button.addEventListener("click", async () => {
    wrong.textContent = "";
    try {
      const make = button.dataset.do === "make", path = make ? "/passkeys" : "/login/passkey";
      const { ticket, options } = await post(`${path}/options`, {});
      const made = make
        ? await navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(options) })
        : await navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(options) });
      await post(path, { ticket, credential: JSON.stringify(made.toJSON()) });
      location.href = make ? "/password" : "/";
    } catch (error) {
      wrong.textContent = error.name === "Error" ? error.message : button.dataset.wrong;
    }
  });
})();
