"use strict";
(() => {
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const DIRECTIONS = ["Backward", "Forward"];
  const FRAMES = ["former", "latter"];
  const SWING_MS = 4000;
  const byId = (id) => document.getElementById(id);
  const all = (selector) => [...document.querySelectorAll(selector)];

  // --- along a motion code ---

  const slider = byId("alpha");
  const swing = byId("swing");
  const codes = all("input[name=code]");
  const zero = (data.alphas.length - 1) / 2;
  const loaded = new Map();

  /** Number of the sheet of a seed (by its place), direction and code. */
  const sheetOf = (seed, side, code) => (seed * 2 + side) * data.numCodes + code;

  /** The picture of a sheet; decoded when it is first asked for. */
  function load(number) {
    if (!loaded.has(number)) {
      const image = new Image();
      image.src = "data:image/jpeg;base64," + data.sheets[number];
      loaded.set(number, image.decode().then(() => image));
    }
    return loaded.get(number);
  }

  /** Draw one frame of a sheet, unless another one is asked for before the sheet is there. */
  async function draw(canvas, number, row, column) {
    const wanted = [number, row, column].join();
    canvas.dataset.wanted = wanted;
    const image = await load(number);
    if (canvas.dataset.wanted !== wanted) return;
    const size = data.size;
    if (canvas.width !== size) canvas.width = canvas.height = size;
    canvas.getContext("2d").drawImage(image, column * size, row * size, size, size, 0, 0, size, size);
    canvas.dataset.drawn = wanted;
  }

  const signed = (value, digits) => {
    const words = Math.abs(value).toFixed(digits);
    return Number(words) === 0 ? "0" : (value < 0 ? "−" : "+") + words;
  };

  function showCodes() {
    const place = Number(slider.value);
    const alpha = data.alphas[place];
    const chosen = codes.find((code) => code.checked);
    const side = Number(chosen.dataset.side);
    const code = Number(chosen.value);
    const length = data.stepLengths[side][code];
    const steps = `${signed(alpha, Number.isInteger(alpha) ? 0 : 1)} steps`;
    byId("alpha-words").textContent = `α = ${steps} (${signed(alpha * length, 2)} in ω)`;
    slider.setAttribute("aria-valuetext", steps);
    const layer = data.layers ? `, in layer ${data.layers[side][code]}` : "";
    const title = `${DIRECTIONS[side]} code ${code + 1}${layer}: edits the ${FRAMES[side]} frame`;
    if (byId("shown").textContent !== title) byId("shown").textContent = title;
    for (const tile of codes) {
      draw(tile.parentElement.querySelector("canvas"), sheetOf(0, Number(tile.dataset.side), Number(tile.value)), Number(tile.dataset.side), place);
    }
    for (const cell of all(".pairs [data-side]")) cell.classList.toggle("edited", Number(cell.dataset.side) === side);
    all(".pairs tbody tr").forEach((row, seed) => {
      const number = sheetOf(seed, side, code);
      for (const canvas of row.querySelectorAll("canvas")) {
        const shown = Number(canvas.dataset.row);
        draw(canvas, number, shown, place);
        const what = `${shown > 1 ? "change of the " : ""}${FRAMES[shown % 2]} frame`;
        canvas.setAttribute("aria-label", `seed ${data.seeds[seed]}, ${what}, α = ${steps}`);
        const change = canvas.parentElement.querySelector(".change");
        if (change) change.textContent = data.changes[number][shown % 2][place].toFixed(2);
      }
    });
  }

  let swinging = 0;

  function stopSwing() {
    cancelAnimationFrame(swinging);
    swinging = 0;
    swing.setAttribute("aria-pressed", "false");
  }

  function startSwing() {
    swing.setAttribute("aria-pressed", "true");
    const phase = Math.asin(Number(slider.value) / zero - 1);
    let start;
    const tick = (now) => {
      start ??= now;
      const place = Math.round(zero * (1 + Math.sin(phase + (2 * Math.PI * (now - start)) / SWING_MS)));
      if (place !== Number(slider.value)) {
        slider.value = place;
        showCodes();
      }
      swinging = requestAnimationFrame(tick);
    };
    swinging = requestAnimationFrame(tick);
  }

  slider.addEventListener("input", () => {
    stopSwing();
    showCodes();
  });
  byId("zero").addEventListener("click", () => {
    stopSwing();
    slider.value = zero;
    showCodes();
  });
  swing.addEventListener("click", () => (swinging ? stopSwing() : startSwing()));
  for (const code of codes) code.addEventListener("change", showCodes);
  for (const canvas of all("canvas")) canvas.classList.toggle("pixels", data.size <= 64);
  showCodes();

  // --- content x motion ---

  const board = document.querySelector(".board");
  const video = board.querySelector("video");
  const play = byId("play");
  const scrub = byId("scrub");
  const spot = board.querySelector(".spot");
  const numFrames = Number(video.dataset.frames);
  const fps = Number(video.dataset.fps);

  function showFrame(frame) {
    scrub.value = frame;
    const words = `frame ${frame + 1} of ${numFrames}`;
    byId("scrub-words").textContent = words;
    scrub.setAttribute("aria-valuetext", words);
  }

  function follow() {
    // Times of frames are rounded: half a frame later is within it.
    showFrame(Math.min(numFrames - 1, Math.floor(video.currentTime * fps + 0.01)));
    if (!video.paused) requestAnimationFrame(follow);
  }

  video.removeAttribute("controls");
  document.querySelector(".player").hidden = false;
  play.addEventListener("click", () => (video.paused ? video.play() : video.pause()));
  video.addEventListener("play", () => {
    play.textContent = "Pause";
    follow();
  });
  video.addEventListener("pause", () => (play.textContent = "Play"));
  // One seek at a time: a browser that is given the next before the last has ended may never end any.
  function seek() {
    const time = (Number(scrub.value) + 0.5) / fps;
    const there = Math.abs(video.currentTime - time) < 0.1 / fps; // browsers round
    if (!there && !video.seeking && video.paused) video.currentTime = time;
  }
  video.addEventListener("seeked", seek);
  scrub.addEventListener("input", () => {
    video.pause();
    showFrame(Number(scrub.value));
    seek();
  });
  showFrame(0);

  const pickers = [...board.querySelectorAll("button")];
  for (const picker of pickers) {
    picker.addEventListener("click", () => {
      const chosen = picker.getAttribute("aria-pressed") !== "true";
      for (const other of pickers) other.setAttribute("aria-pressed", String(chosen && other === picker));
      const height = 100 / Number(board.dataset.rows);
      const width = 100 / Number(board.dataset.columns);
      const { row, column } = picker.dataset;
      spot.style.inset =
        row === undefined
          ? `0 ${100 - width * (Number(column) + 1)}% 0 ${width * Number(column)}%`
          : `${height * Number(row)}% 0 ${100 - height * (Number(row) + 1)}% 0`;
      spot.hidden = !chosen;
    });
  }
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) video.play().catch(() => {}); // a browser may leave it to the button
})();
