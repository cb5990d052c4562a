// Camera, microphone and the live read-out of a turn. Talks to nothing but the page's own server.
"use strict";
(() => {
  const PERIOD = 100; // ms between two pictures, and between two requests with what has gathered since the last
  const PICTURES_AT_ONCE = 16;
  const SIDE = 640; // px kept of a picture's longer side
  const SOUND_AT_ONCE = 16 * 48000; // samples in one request
  const ENOUGH = 0.4; // a live read-out below it is not shown as a word
  const COLLECTOR = `registerProcessor("collector", class extends AudioWorkletProcessor {
    constructor() { super(); this.block = new Int16Array(2048); this.filled = 0; this.over = false;
      this.port.onmessage = () => { this.over = true; this.flush(); this.port.postMessage("flushed"); }; }
    flush() { this.port.postMessage(this.block.slice(0, this.filled)); this.filled = 0; }
    process(inputs) { if (this.over) return false;
      const channels = inputs[0]; if (!channels.length) return true;
      for (let i = 0; i < channels[0].length; i++) { let sum = 0;
        for (const channel of channels) sum += channel[i];
        this.block[this.filled++] = Math.max(-1, Math.min(1, sum / channels.length)) * 32767;
        if (this.filled === this.block.length) this.flush(); }
      return true; } });`;

  const $ = (selector) => document.querySelector(selector);
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const state = { turn: null, media: null, local: false, counts: null };

  const token = () => $("#mm-token [data-token]")?.dataset.token;
  const isLocal = () => $("#mm-token [data-token]")?.dataset.capture === "local";

  function say(text, problem = false) {
    const line = $("#mm-message");
    if (line && line.textContent !== text) line.textContent = text;
    if (line) line.classList.toggle("mm-problem", problem);
  }

  function mode(name) { document.body.dataset.mm = name; }

  async function post(head, pictures = [], sound = null) {
    const parts = [JSON.stringify({ ...head, pictures: pictures.map(({ blob, at }) => [blob.size, at]) }) + "\n"];
    for (const { blob } of pictures) parts.push(blob);
    if (sound) parts.push(sound);
    const answer = await fetch(`multimood/turn/${token()}`, { method: "POST", body: new Blob(parts) });
    const found = await answer.json();
    if (found.error) throw Object.assign(new Error(found.error), { refused: true });
    return found;
  }

  // -- devices ---------------------------------------------------------------------------------------------------

  const REASONS = {
    NotAllowedError: "not allowed; allow it in the browser's address bar",
    NotFoundError: "none is connected",
    NotReadableError: "another program uses it",
  };

  async function devices() {
    if (!navigator.mediaDevices) {
      throw new Error("The browser gives camera and microphone only to https or to this computer's own address (127.0.0.1). " +
        "Type the client's words, or choose a clip.");
    }
    const wanted = { video: { width: { ideal: 640 }, height: { ideal: 480 } },
      audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false } };
    const failed = new Map(); // why, and which of the two
    const get = async (kind, name) => {
      try { return await navigator.mediaDevices.getUserMedia({ [kind]: wanted[kind] }); }
      catch (error) {
        const reason = REASONS[error.name] || error.message;
        failed.set(reason, [...(failed.get(reason) || []), name]);
        return null;
      }
    };
    let stream = await navigator.mediaDevices.getUserMedia(wanted).catch(() => null); // one question for both
    if (!stream) {
      const parts = [await get("audio", "microphone"), await get("video", "camera")].filter(Boolean);
      if (parts.length) stream = new MediaStream(parts.flatMap((part) => part.getTracks()));
    }
    const failures = [...failed].map(([reason, names]) => `${names.join(" and ")}: ${reason}`);
    if (!stream) throw new Error(`No ${failures.join("; no ")}. Type the client's words, or choose a clip.`);
    return { stream, failures };
  }

  async function listen(stream) {
    const context = new AudioContext();
    await context.audioWorklet.addModule(URL.createObjectURL(new Blob([COLLECTOR], { type: "text/javascript" })));
    const node = new AudioWorkletNode(context, "collector");
    context.createMediaStreamSource(stream).connect(node);
    await context.resume();
    return { context, node };
  }

  const canvas = new OffscreenCanvas(1, 1); // an element's toBlob waits until the page is idle

  function picture(video) {
    const scale = Math.min(1, SIDE / Math.max(video.videoWidth, video.videoHeight));
    canvas.width = Math.round(video.videoWidth * scale);
    canvas.height = Math.round(video.videoHeight * scale);
    canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
    return canvas.convertToBlob({ type: "image/jpeg", quality: 0.85 });
  }

  function close(media) {
    media.sound?.context.close();
    media.stream?.getTracks().forEach((track) => track.stop());
    const video = $("#mm-video");
    if (video) video.srcObject = null;
  }

  // -- a turn ----------------------------------------------------------------------------------------------------

  async function start() {
    if (state.turn || state.starting) return;
    state.starting = true;
    let media = {};
    try {
      if (!isLocal()) {
        say("Asking for the camera and the microphone.");
        const { stream, failures } = await devices();
        media.stream = stream;
        if (stream.getVideoTracks().length) {
          const video = $("#mm-video");
          video.srcObject = stream;
          await video.play();
        }
        if (stream.getAudioTracks().length) media.sound = await listen(stream);
        say(failures.length ? `Without ${failures.join("; ")}.` : "");
      }
      await post({ do: "begin" });
    } catch (error) {
      close(media);
      say(error.message, true);
      state.starting = false;
      return;
    }
    const turn = { media, queue: [], queued: 0, sent: 0, pictures: [], times: [], frames: 0, begun: performance.now(), done: false, rate: 0 };
    if (media.sound) {
      turn.rate = media.sound.context.sampleRate;
      media.sound.node.port.onmessage = ({ data }) => {
        if (turn.over) return; // too late: the rest of the turn is being sent
        if (data === "flushed") { turn.flushed?.(); return; }
        turn.queue.push(data);
        turn.queued += data.length;
      };
    }
    state.turn = turn;
    state.starting = false;
    mode("listening");
    const seeing = media.stream?.getVideoTracks().length ? photograph(turn) : null;
    turn.loop = Promise.all([run(turn), seeing]);
  }

  // Pictures are taken by the clock, whether or not the last request was answered yet.
  async function photograph(turn) {
    const video = $("#mm-video");
    while (!turn.done) {
      const now = performance.now();
      if (video.readyState >= 2 && turn.pictures.length < 50) {
        turn.pictures.push({ blob: await picture(video), at: Math.round(now - turn.begun) });
        turn.times.push(now - turn.begun);
      }
      await wait(Math.max(0, PERIOD - (performance.now() - now)));
    }
  }

  function gathered(turn) {
    const all = new Int16Array(turn.queue.reduce((sum, block) => sum + block.length, 0));
    let at = 0;
    for (const block of turn.queue) { all.set(block, at); at += block.length; }
    turn.queue = [all];
    return all.subarray(0, SOUND_AT_ONCE);
  }

  // What was sent stays queued until the server has said that it came; it leaves out what comes twice.
  async function send(turn) {
    const head = { do: "data", first: turn.frames };
    const pictures = turn.pictures.slice(0, PICTURES_AT_ONCE);
    const sound = turn.rate ? gathered(turn) : null;
    if (sound) Object.assign(head, { rate: turn.rate, offset: turn.sent });
    const found = await post(head, pictures, sound);
    if (!found.open) return found;
    turn.pictures.splice(0, pictures.length);
    turn.frames += pictures.length;
    if (sound) {
      turn.queue = [turn.queue[0].subarray(found.received - turn.sent), ...turn.queue.slice(1)];
      turn.sent = found.received;
    }
    show(found, turn);
    return found;
  }

  async function run(turn) {
    let failures = 0;
    while (!turn.done) {
      const now = performance.now();
      try {
        const found = await send(turn);
        failures = 0;
        if (!found.open) return abandon(turn, "The turn was closed: no sound or picture came for a while.");
        if (found.ended && $("#mm-auto input")?.checked && !turn.done) { $("#mm-end").click(); }
      } catch (error) {
        if (error.refused) return abandon(turn, error.message);
        failures += 1;
        say(`The app does not answer; trying again (${failures}).`, true);
        if (failures > 50) return abandon(turn, "The app does not answer any more. Is it still running?");
        await wait(200);
      }
      await wait(Math.max(0, PERIOD - (performance.now() - now)));
    }
  }

  function abandon(turn, text) {
    turn.done = true;
    state.turn = null;
    close(turn.media);
    mode("ready");
    say(text, true);
  }

  async function stop() {
    const turn = state.turn;
    if (!turn) return;
    turn.done = true;
    await turn.loop;
    if (state.turn !== turn) return; // it was abandoned meanwhile
    state.turn = null;
    if (turn.media.sound) {
      await Promise.race([new Promise((done) => { turn.flushed = done; turn.media.sound.node.port.postMessage("flush"); }), wait(2000)]);
      turn.over = true;
    }
    for (let i = 0; i < 20 && (turn.sent < turn.queued || turn.pictures.length); i++) {
      await send(turn).catch(() => wait(200));
    }
    state.counts = { samples: turn.queued, sent: turn.sent, rate: turn.rate, frames: turn.frames, times: turn.times,
      milliseconds: performance.now() - turn.begun };
    close(turn.media);
    mode("ready");
    clear();
    say("");
  }

  async function cancel() {
    const turn = state.turn;
    if (!turn) return;
    turn.done = true;
    state.turn = null;
    close(turn.media);
    mode("ready");
    clear();
    await post({ do: "cancel" }).catch(() => {});
    say("The turn was thrown away.");
  }

  // A turn ends once: by a press or by its pause, however often the button is pressed until then.
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("#mm-end")) return;
    if (!state.turn || state.turn.ending) event.stopImmediatePropagation();
    else state.turn.ending = true;
  }, true);

  // -- the read-out ----------------------------------------------------------------------------------------------

  const words = (found) => !found || found[1] < ENOUGH ? "not enough signal" : `${found[0]} ${found[1].toFixed(2).slice(1)}`;

  function put(id, text) {
    const element = $(id);
    if (element && element.textContent !== text) element.textContent = text;
  }

  function show(found, turn) {
    const seconds = Math.floor((performance.now() - turn.begun) / 1000);
    put("#mm-clock", `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`);
    put("#mm-face", found.people === 0 ? (found.looks ? "no face in the picture" : "waiting for a picture") : words(found.face));
    put("#mm-voice", found.speaking || found.voice ? words(found.voice) : "no speech yet");
    put("#mm-people", found.people > 1 ? `${found.people} faces: the largest counts` : "");
    $("#mm-speaking")?.classList.toggle("mm-on", found.speaking);
    if (found.quiet) say("The microphone is very quiet; move closer, or turn it up.");
    const local = $("#mm-local");
    if (local && found.preview) { local.src = found.preview; local.hidden = false; }
  }

  function clear() {
    for (const id of ["#mm-face", "#mm-voice"]) put(id, "between turns");
    put("#mm-clock", "0:00");
    put("#mm-people", "");
    $("#mm-speaking")?.classList.remove("mm-on");
    const local = $("#mm-local");
    if (local) local.hidden = true;
  }

  addEventListener("pagehide", () => {
    if (state.turn) navigator.sendBeacon(`multimood/turn/${token()}`, JSON.stringify({ do: "cancel" }) + "\n");
  });

  window.multimood = { start, stop, cancel, state, token, mode, wait };
})();
