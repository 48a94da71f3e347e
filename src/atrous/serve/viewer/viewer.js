// The page's viewer: takes a photograph, sends it with the settings to this server, and shows what comes back.
// The settings are Gradio's components, whose button calls segment(settings).

import {Panel, differingPixels, parseResult} from "./panel.js";

const SEGMENT_BUTTON = "#segment"; // Gradio's
const VIEW = new URL("segment", import.meta.url); // what the viewer draws
const API = new URL("../v1/segment", import.meta.url); // what is downloaded

class AtrousViewer extends HTMLElement {
  connectedCallback() {
    this.file = null;
    this.isReady = false;
    this.panels = [];
    this.hiddenClasses = new Set();
    this.seenUnpainted = new Set();
    this.addEventListener("click", event => this.onClick(event));
    this.addEventListener("input", event => this.onInput(event));
    this.$("input[type=file]").addEventListener("change", event => this.open(event.target.files[0]));
    this.connection = new AbortController();
    const {signal} = this.connection;
    for (const type of ["dragover", "dragleave", "drop"]) {
      document.addEventListener(type, event => this.onDrag(event), {signal});
    }
    document.addEventListener("paste", event => this.onPaste(event), {signal});
    this.$("dialog").addEventListener("close", () => this.stopCamera());
    this.setOpacity();
    this.open(this.$("input[type=file]").files[0]); // chosen before this script was loaded
  }

  /** Begin to take photographs: Gradio, which calls this, answers its button from now on. */
  ready() {
    this.isReady = true;
    this.dataset.ready = "true";
    if (this.file) document.querySelector(SEGMENT_BUTTON).click();
  }

  disconnectedCallback() {
    this.connection.abort(); // the document outlives this element
    this.stopCamera();
  }

  $(selector) { return this.querySelector(selector); }

  // ---- the photograph ----

  onDrag(event) {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault(); // or the browser leaves the page and opens the file
    this.classList.toggle("dropping", event.type === "dragover");
    if (event.type === "drop") this.open(event.dataTransfer.files[0]);
  }

  onPaste(event) {
    const file = [...event.clipboardData.files][0];
    if (!file) return; // text, for one of the fields
    event.preventDefault();
    this.open(file);
  }

  /** Take a file as the photograph and segment it. */
  open(file) {
    if (!file) return;
    this.$("input[type=file]").value = ""; // the same file can be chosen again
    const limit = Number(this.dataset.maxBytes);
    if (file.size > limit) {
      this.fail(`${file.name} has ${megabytes(file.size)}; this server takes ${megabytes(limit)}. Scale it down.`);
      return;
    }
    this.file = file;
    this.$(".name").hidden = false;
    this.$(".name").textContent = file.name;
    if (this.isReady) document.querySelector(SEGMENT_BUTTON).click();
  }

  async openExample() {
    const response = await fetch(this.$("[data-do=example] img").src);
    this.open(new File([await response.blob()], "street.jpg", {type: "image/jpeg"}));
  }

  async openCamera() {
    if (!navigator.mediaDevices) { // browsers hide it on plain http, other than from this machine
      this.fail("The camera needs an address with https, or this machine's own. Choose a file instead.");
      return;
    }
    if (this.isOpening) return; // a second stream would stay on
    this.isOpening = true;
    try {
      const stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: "environment"}});
      this.$("[data-do=shoot]").disabled = true;
      this.$("video").addEventListener("loadeddata", () => this.$("[data-do=shoot]").disabled = false, {once: true});
      this.$("video").srcObject = stream;
      this.$("dialog").showModal();
    } catch (error) { // no camera, or no permission
      this.fail(`The camera cannot be used (${error.message ?? error}). Choose a file instead.`);
    } finally {
      this.isOpening = false;
    }
  }

  async takePhotograph() {
    const video = this.$("video");
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await canvas.convertToBlob({type: "image/jpeg", quality: 0.95});
    this.$("dialog").close();
    this.open(new File([blob], "camera.jpg", {type: "image/jpeg"}));
  }

  stopCamera() {
    this.$("video").srcObject?.getTracks().forEach(track => track.stop());
    this.$("video").srcObject = null;
  }

  // ---- the server ----

  /** Segment with the values of Gradio's settings: those named by `names`, whether to compare, and those again. */
  run(names, values) {
    const settings = [values.slice(0, names.length)];
    if (values[names.length]) settings.push(values.slice(names.length + 1));
    return this.segment(settings.map(each => describeSettings(Object.fromEntries(names.map((name, i) => [name, each[i]])))));
  }

  /** Segment the photograph with one setting or, to compare, with two: a title and the options of the request. */
  async segment(settings) {
    if (!this.file) {
      this.fail("Choose a photograph first: drop or paste it, or take the example.");
      return;
    }
    await this.work(async () => {
      const file = this.file;
      const results = [];
      for (const [index, {title, options}] of settings.entries()) {
        this.tell(settings.length > 1 ? `Segmenting, ${index + 1} of ${settings.length}` : "Segmenting");
        const response = await this.request(VIEW, file, {...options, photo: index === 0});
        const time = describeTime(response.headers.get("Server-Timing"));
        results.push({...parseResult(await response.arrayBuffer()), title, options, time, file});
      }
      this.show(results, await createImageBitmap(new Blob([results[0].photo])));
    });
  }

  /** Send the photograph with options to the server; an answer other than success is thrown as one line. */
  async request(endpoint, file, options) {
    const address = new URL(endpoint);
    for (const [name, value] of Object.entries(options)) {
      if (value !== null && value !== "") address.searchParams.set(name, value);
    }
    const body = new FormData();
    body.append("image", file, file.name);
    let response;
    try {
      response = await fetch(address, {method: "POST", body, signal: this.abort.signal});
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The server cannot be reached. Check that it is running, then try again.");
    }
    if (!response.ok) throw new Error((await reason(response)).replace(/^the image(?=:)/, file.name));
    return response;
  }

  /** Run a task with a bar of progress, its seconds, and a button to cancel it; show its error, if any, as a line. */
  async work(task) {
    this.abort?.abort(); // the newest request counts
    const abort = this.abort = new AbortController();
    const start = performance.now();
    const tick = () => {
      const seconds = Math.floor((performance.now() - start) / 1000);
      this.$(".task").dataset.seconds = seconds ? ` ${seconds} s` : "";
    };
    this.fail("");
    tick();
    this.$(".work").hidden = false;
    this.dataset.busy = "true";
    this.$(".result").setAttribute("aria-busy", "true"); // not around errors and status, which are to be read at once
    const timer = setInterval(tick, 1000);
    try {
      await task();
    } catch (error) {
      if (error.name !== "AbortError") this.fail(error.message);
    } finally {
      clearInterval(timer);
      if (this.abort === abort) {
        if (this.$(".work").contains(document.activeElement)) { // the button to cancel, which goes
          (this.$(".picture") ?? this.$("[data-do=choose]")).focus();
        }
        this.$(".work").hidden = true;
        this.$(".result").removeAttribute("aria-busy");
        delete this.dataset.busy;
      }
    }
  }

  /** Tell what is being done, on the page and to screen readers. */
  tell(text) { this.$("[role=status]").textContent = this.$(".task").textContent = text; }

  fail(text) {
    this.$(".error").textContent = text;
    this.$(".error").hidden = !text;
  }

  // ---- the result ----

  show(results, photo) {
    this.classList.add("shown");
    this.$(".result").hidden = false;
    this.$(".panels").replaceChildren();
    this.panels = results.map(result => {
      const figure = this.$("template").content.cloneNode(true).firstElementChild;
      this.$(".panels").append(figure);
      const panel = new Panel(figure, result, photo);
      panel.picture.addEventListener("pointermove", event => this.point(pointOf(event), false));
      panel.picture.addEventListener("click", event => this.point(pointOf(event), true));
      panel.picture.addEventListener("keydown", event => this.onKey(event));
      return panel;
    });
    for (const name of results.flatMap(result => result.unpainted)) { // off at first, such as the background
      if (!this.seenUnpainted.has(name)) this.hiddenClasses.add(name);
      this.seenUnpainted.add(name);
    }
    this.differences = results.length > 1 ? differingPixels(...results) : null;
    this.$(".differences").hidden = !this.differences;
    this.at = null;
    this.$(".readout").textContent = this.$("[role=status]").textContent = this.summary();
    this.showLegend(results);
    const confidence = this.$("[value=confidence]"); // an image too large for probabilities has none
    confidence.disabled = results.some(result => !result.probability);
    if (confidence.disabled) this.$("[value=classes]").checked = true;
    this.paint();
  }

  summary() {
    const {width, height} = this.panels[0].result;
    const size = `${width} x ${height} pixels. `;
    const different = this.differences ? `${percent(this.differences.fraction)} of the pixels differ. ` : "";
    return `${size}${different}Point at the picture to see class and probability.`;
  }

  showLegend(results) {
    const fractions = new Map();
    results.forEach((result, index) => result.classes.forEach((name, label) => {
      if (!result.fractions[label]) return;
      const entry = fractions.get(name) ?? {color: result.colors[label], shares: results.map(() => 0)};
      entry.shares[index] = result.fractions[label];
      fractions.set(name, entry);
    }));
    const largest = [...fractions].sort((a, b) => Math.max(...b[1].shares) - Math.max(...a[1].shares));
    this.$(".legend ul").replaceChildren(...largest.map(([name, entry]) => this.legendEntry(name, entry)));
  }

  legendEntry(name, {color, shares}) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.class = name;
    button.setAttribute("aria-pressed", !this.hiddenClasses.has(name));
    button.style.setProperty("--color", `rgb(${color})`);
    button.style.setProperty("--share", `${100 * Math.max(...shares)}%`);
    for (const text of [name, shares.map(percent).join(" · ")]) {
      button.append(Object.assign(document.createElement("span"), {textContent: text}));
    }
    const item = document.createElement("li");
    item.append(button);
    return item;
  }

  toggleClasses(names, shown) {
    for (const name of names) {
      if (shown ?? this.hiddenClasses.has(name)) this.hiddenClasses.delete(name);
      else this.hiddenClasses.add(name);
    }
    for (const button of this.querySelectorAll("[data-class]")) {
      button.setAttribute("aria-pressed", !this.hiddenClasses.has(button.dataset.class));
    }
    this.paint();
  }

  paint() {
    const view = this.$("[name=view]:checked").value;
    const marked = this.differences && this.$("[name=differences]").checked;
    this.$(".scale").hidden = view !== "confidence";
    for (const panel of this.panels) {
      panel.paint(view, this.hiddenClasses);
      panel.mark(marked ? this.differences.differs : null);
    }
  }

  setOpacity() { this.style.setProperty("--opacity", this.$("[name=opacity]").value / 100); }

  /** Tell the classes at a point in all panels; aloud for screen readers where it was chosen, not only passed. */
  point(point, aloud) {
    this.at = point;
    const texts = this.panels.map(panel => panel.describe(point));
    const {width, height} = this.panels[0].result;
    const position = `x ${Math.floor(point.x * width)}, y ${Math.floor(point.y * height)}: `;
    this.$(".readout").setAttribute("aria-live", aloud ? "polite" : "off");
    this.$(".readout").textContent = position + texts.join(" | ");
  }

  onKey(event) {
    const step = event.shiftKey ? 0.1 : 0.01;
    const move = {ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step]}[event.key];
    if (!move) return;
    event.preventDefault(); // do not scroll
    const {x, y} = this.at ?? {x: 0.5, y: 0.5};
    this.point({x: clamp(x + move[0]), y: clamp(y + move[1])}, true);
  }

  async download(panel, format) {
    const {file, options, png} = panel.result;
    const stem = file.name.replace(/\.[^.]*$/, "");
    if (format === "png") {
      save(new Blob([png], {type: "image/png"}), `${stem}.png`);
    } else if (format === "overlay") {
      save(await panel.overlayImage(this.$("[name=opacity]").value / 100), `${stem}_overlay.png`);
    } else {
      await this.work(async () => {
        this.tell(`Writing ${format}`);
        const response = await this.request(API, file, {...options, format, polygons: true});
        save(await response.blob(), `${stem}.${format === "geojson" ? "geojson" : "json"}`);
      });
    }
  }

  // ---- events ----

  onClick(event) {
    const button = event.target.closest("button");
    if (!button) return;
    const {do: action, format, class: name} = button.dataset;
    if (name !== undefined) this.toggleClasses([name]);
    if (format) this.download(this.panels.find(panel => panel.figure.contains(button)), format);
    const classes = () => [...this.querySelectorAll("[data-class]")].map(each => each.dataset.class);
    ({
      choose: () => this.$("input[type=file]").click(),
      camera: () => this.openCamera(),
      example: () => this.openExample(),
      shoot: () => this.takePhotograph(),
      close: () => this.$("dialog").close(),
      cancel: () => this.abort.abort(),
      all: () => this.toggleClasses(classes(), true),
      none: () => this.toggleClasses(classes(), false),
    })[action]?.();
  }

  onInput(event) {
    if (event.target.name === "opacity") this.setOpacity();
    else if (["view", "differences"].includes(event.target.name)) this.paint();
  }
}

const clamp = value => Math.min(0.9999, Math.max(0, value));
const percent = fraction => `${(100 * fraction).toFixed(1)} %`;
const seconds = milliseconds => `${(milliseconds / 1000).toFixed(2)} s`;
const megabytes = bytes => `${(bytes / 1e6).toFixed(1)} MB`;

/** The point of a pointer event as fractions of the picture's width and height. */
function pointOf(event) {
  const box = event.currentTarget.getBoundingClientRect();
  return {x: clamp((event.clientX - box.left) / box.width), y: clamp((event.clientY - box.top) / box.height)};
}

/** Name one result by its settings, and make them the options of a request. */
function describeSettings({use_crf: useCRF, ...options}) {
  const {weights, output_stride: stride, tta, crf} = options;
  const crfOptions = ["crf", "crf_iterations", "w1", "sigma_alpha", "sigma_beta"];
  const parts = [weights, stride && `output stride ${stride}`, tta !== "none" && `TTA ${tta}`, useCRF && `CRF ${crf}`];
  if (!useCRF) crfOptions.forEach(name => delete options[name]);
  return {title: parts.filter(Boolean).join(", "), options};
}

/** Tell the seconds of a Server-Timing header: all of them, and those of network and CRF. */
function describeTime(header) {
  const milliseconds = Object.fromEntries((header ?? "").split(",").filter(Boolean).map(entry => {
    const [name, duration] = entry.trim().split(";dur=");
    return [name, Number(duration)];
  }));
  const {network, crf} = milliseconds;
  const total = Object.values(milliseconds).reduce((sum, each) => sum + each, 0);
  return [`${seconds(total)}`, network && `network ${seconds(network)}`, crf && `CRF ${seconds(crf)}`]
    .filter(Boolean).join(" · ");
}

/** The reason in an answer of the server that is an error. */
async function reason(response) {
  const text = await response.text();
  try {
    const {detail} = JSON.parse(text);
    return typeof detail === "string" ? detail : detail.map(each => each.msg).join("; ");
  } catch {
    return `The server answered ${response.status} ${response.statusText}.`;
  }
}

function save(blob, name) {
  const link = Object.assign(document.createElement("a"), {href: URL.createObjectURL(blob), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

customElements.define("atrous-viewer", AtrousViewer);
